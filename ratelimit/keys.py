"""Names of the keys in Redis.

```
fleet:{openai}:state:openai/sim-large     string: quota and state of a scope, packed (lua/_scope.lua)
fleet:{openai}:quota:openai/sim-large     string: the quota as a JSON document
fleet:{openai}:before:openai/sim-large    string: the quota that is back once one that was set for a while has ended
fleet:{openai}:changes:openai/sim-large   list: who set it to what and why, newest first, a thousand at most
fleet:{openai}:leases:openai/sim-large    sorted set: what is in flight, by the instant its lease ends
fleet:{openai}:held:openai/sim-large      hash: what each lease holds
fleet:{openai}:heard:openai/sim-large     hash: what the provider's headers have said last
fleet:{openai}:live:openai/sim-large      sorted set: processes that use the scope, by when they were seen
fleet:{openai}:learnt:openai/sim-large    hash: what calls of each role have used
fleet:{openai}:place:<scope> <key>        string: the place booked under a caller's key
fleet:{openai}:done:<scope> <permit>      string: this permit is settled or cancelled
```

The braces are a Redis Cluster hash tag: all keys of a provider live in one slot, so that one script may touch them. The
scripts derive a scope's other keys from that of its state.
"""

PREFIX = "fleet"


def tag(scope: str) -> str:
    """The hash tag of a scope: its provider."""
    return "{" + scope.partition("/")[0] + "}"


def _key(kind: str, scope: str) -> str:
    return f"{PREFIX}:{tag(scope)}:{kind}:{scope}"


def scope_key(scope: str) -> str:
    """Where a scope's quota and state live."""
    return _key("state", scope)


def place_key(scope: str, key: str) -> str:
    """Where the place booked under `key` is recorded."""
    # a scope has no space: no two scopes share a key
    return f"{_key('place', scope)} {key}"


def done_key(scope: str, permit: str) -> str:
    """Where it is noted that a permit is settled."""
    return f"{_key('done', scope)} {permit}"


def quota_key(scope: str) -> str:
    """Where the quota is kept as a document."""
    return _key("quota", scope)


def changes_key(scope: str) -> str:
    """Where changes of the quota are listed."""
    return _key("changes", scope)


def leases_key(scope: str) -> str:
    """Where the instants are at which leases end."""
    return _key("leases", scope)


def held_key(scope: str) -> str:
    """Where it is noted what each lease holds."""
    return _key("held", scope)


def live_key(scope: str) -> str:
    """Where it is noted which processes use a scope."""
    return _key("live", scope)


def learnt_key(scope: str) -> str:
    """Where it is noted what calls of each role have used."""
    return _key("learnt", scope)
