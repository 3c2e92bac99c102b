"""Names of the keys in Redis.

```
fleet:{openai}:scope:openai/sim-large     string: quota and state of a scope, packed (lua/_scope.lua)
fleet:{openai}:quota:openai/sim-large     string: the quota as a JSON document
fleet:{openai}:changes:openai/sim-large   list: who set it to what and why, newest first, a thousand at most
fleet:{openai}:place:<scope>:<key>        string: the place booked under a caller's key
fleet:{openai}:done:<scope>:<permit>      string: this permit is settled or cancelled
```

The braces are a Redis Cluster hash tag: all keys of a provider live in one slot, so that one script may touch them.
"""

PREFIX = "fleet"


def tag(scope: str) -> str:
    """The hash tag of a scope: its provider."""
    return "{" + scope.partition("/")[0] + "}"


def scope_key(scope: str) -> str:
    """Where a scope's quota and state live."""
    return f"{PREFIX}:{tag(scope)}:scope:{scope}"


def place_key(scope: str, key: str) -> str:
    """Where the place booked under `key` is recorded."""
    return f"{PREFIX}:{tag(scope)}:place:{scope}:{key}"


def done_key(scope: str, permit: str) -> str:
    """Where it is noted that a permit is settled."""
    return f"{PREFIX}:{tag(scope)}:done:{scope}:{permit}"


def quota_key(scope: str) -> str:
    """Where the quota is kept as a document."""
    return f"{PREFIX}:{tag(scope)}:quota:{scope}"


def changes_key(scope: str) -> str:
    """Where changes of the quota are listed."""
    return f"{PREFIX}:{tag(scope)}:changes:{scope}"
