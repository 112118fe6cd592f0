"""Whether this host may stand for the allocator's seat, as far as the API has told it by refusing."""

from __future__ import annotations

from hostagent.agent.clock import now
from hostagent.edges.kube.events import Events, about_service
from hostagent.edges.kube.status import ServiceStatus
from hostagent.model.cluster import Service
from hostagent.model.errors import EdgeError
from hostagent.model.names import Instant, NodeName
from hostagent.telemetry.journal import warn

BARRED_S = 60.0
"""A host that may not allocate does not stand again before: it would take the seat from one that may. A certificate
that was mended is tried after this long at most."""
FORBIDDEN = 403
REFUSED = (FORBIDDEN, 422)
"""As RBAC says it, and as a ValidatingAdmissionPolicy does."""
REMEDY = (
    "If it shall allocate, its certificate must be of the group hostagent:allocators: run playbooks/site.yml. "
    "If not, set hostagent_allocator: false for it"
)


class Standing:
    """Stands for the seat, until it is refused what goes with it."""

    def __init__(self, me: NodeName, status: ServiceStatus, events: Events) -> None:
        self._me = me
        self._status = status
        self._events = events
        self.barred_until = Instant(0)
        self._why = ""

    @property
    def barred(self) -> bool:
        return now() < self.barred_until

    @property
    def troubles(self) -> tuple[str, ...]:
        return (self._why,) if self.barred else ()

    def seat_refused(self, error: EdgeError) -> bool:
        """Whether the API says that this host may not have the seat; anything else is worth another try."""
        if error.status not in REFUSED:
            return False
        self._bar(f"{self._me} was refused the allocator's seat ({error.cause})")
        return True

    async def status_refused(self, service: Service, error: EdgeError) -> None:
        """A Service's status could not be written: is it about this one alone (somebody's webhook), or about all?

        Only in the latter case is it another host's turn: one bad Service would send the seat around for ever.
        """
        if error.status != FORBIDDEN or self.barred:
            return
        try:
            may = await self._status.may_write()
        except EdgeError as unknown:
            warn("allocator.rights-unknown", f"whether {self._me} may write Services could not be asked: {unknown}")
            return
        if may or self.barred:  # by another write's refusal meanwhile
            return
        self._bar(f"{self._me} may not write Services' status and gives the allocator's seat up")
        message = f"{self._me} may not write Services' status: it is another host's turn. {REMEDY}"
        self._events.emit(about_service(service), reason="AllocationFailed", message=message, warning=True)

    def _bar(self, why: str) -> None:
        self.barred_until = Instant(now() + BARRED_S)
        self._why = f"{why}; it does not stand for it for {BARRED_S:.0f} s. {REMEDY}"
        warn("allocator.barred", self._why)
