"""Which scopes a call is charged to: its own and those around it."""

from collections.abc import Mapping

from ratelimit.quota import Quota, check_nesting


class Chains:
    """The nesting of the quotas that a limiter was given. It is fixed; the limits live in the store."""

    def __init__(self, quotas: Mapping[str, Quota]) -> None:
        """Args:
        quotas: by scope.

        Raises:
            BadQuota: they contradict each other.
        """
        check_nesting(quotas)
        self._quotas = dict(quotas)
        self._chains: dict[str, tuple[str, ...]] = {}

    def set(self, quota: Quota, *, over: bool = True) -> None:
        """Take note of another quota."""
        if over or quota.scope not in self._quotas:
            self._quotas[quota.scope] = quota
            self._chains.clear()

    def quota(self, scope: str) -> Quota | None:
        """The quota of a scope, its own or by its template."""
        own = self._quotas.get(scope)
        if own is not None:
            return own
        template = self._quotas.get(f"{scope.rpartition('/')[0]}/*")
        return None if template is None else template.of(scope)

    def of(self, scope: str) -> tuple[str, ...]:
        """The scope and those around it, innermost first."""
        chain = self._chains.get(scope)
        if chain is None:
            found = [scope]
            while (quota := self.quota(found[-1])) is not None and quota.outer is not None:
                found.append(quota.outer)
            chain = tuple(found)
            if quota is None or not quota.passing:
                self._chains[scope] = chain
        return chain

    def counted(self, scope: str) -> int:
        """Which scope of the chain the provider itself counts by: a tenant's share is only ours."""
        for i, one in enumerate(self.of(scope)):
            quota = self.quota(one)
            if quota is None or not quota.passing:
                return i
        return 0
