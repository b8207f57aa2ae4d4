"""How often each arm answered, by experiment and epoch: from the health page, kept in the events database."""

from collections import Counter

from edge_agent.control.supervise import ServingProcess
from edge_agent.documents.plan import Plan
from edge_agent.store.events_db import EventsDb, ExposureKey
from edge_agent.telemetry.health_page import HealthPage


class Exposures:
    """Adds up what the slots of the health page count, over all lives of serving and of the plan."""

    def __init__(self, page: HealthPage, serving: ServingProcess) -> None:
        self._page = page
        self._serving = serving
        self._seen: dict[str, int] = {}
        self._arms: dict[str, ExposureKey] = {}
        self._pending: Counter[ExposureKey] = Counter()

    def collect(self) -> None:
        """Take what was counted since the last call; to be called at each change of the plan, too.

        Counts belong to the arms that the versions were at the last call: a version may be another arm, or
        another epoch's, from now on.
        """
        counts = self._page.snapshot().slots
        arms = arms_of(self._serving.plan) if self._serving.plan is not None else {}
        slots = self._serving.slots
        for key, slot in slots.items():
            now, before = counts[slot].exposures, self._seen.get(key, 0)
            arm = self._arms.get(key) or arms.get(key)
            if arm is not None:
                # A lower count is that of a slot that was cleared and given out again.
                self._pending[arm] += now - before if now >= before else now
                self._seen[key] = now
        self._seen = {key: count for key, count in self._seen.items() if key in slots}
        self._arms = {key: arm for key, arm in (self._arms | arms).items() if key in slots}

    def store(self, db: EventsDb, database: str) -> None:
        """Add what was taken to the counts of this outcomes database; raises StorageError."""
        pending = {
            ExposureKey(database, key.model, key.experiment, key.epoch, key.arm): count
            for key, count in self._pending.items()
            if count
        }
        if pending:
            db.add_exposures(pending)
        self._pending.clear()


def arms_of(plan: Plan) -> dict[str, ExposureKey]:
    """Return which arm each version of a plan is, by the version's key; of no database yet."""
    found = {}
    for version in plan.versions:
        policy = plan.policy(version.model)
        arm = version.arm or version.version
        experiment = policy.experiment or version.model
        found[version.key] = ExposureKey("", version.model, experiment, policy.epoch, arm)
    return found
