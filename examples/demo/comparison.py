"""The chapters about a fleet: two versions side by side, remembered answers, and a broker that dies."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from time import monotonic

from edge_agent.documents.errors import EdgeAgentError
from edge_fleet.fleet_db import FleetDb
from examples.demo.broker import Broker
from examples.demo.files import Sample
from examples.demo.machine import DEMO, DemoError, Machine, shown
from examples.demo.metrics import read_metric
from examples.demo.narrator import Narrator
from examples.demo.told import Apps, Told

ROUNDS = 3
OUTCOMES_EACH = 300
"""Outcomes that are told before, during and after the broker's absence, at least."""
METRIC = "correct"


@dataclass(frozen=True)
class Scene:
    """What the chapters before have made: a store, a device that serves, files and their labels."""

    store: Path
    keys: Path
    config: Path
    socket: Path
    samples: Sequence[Sample]
    labels: Sequence[str]


@dataclass(frozen=True)
class Collected:
    """What the collector's database holds of the experiment, by arm."""

    predictions: Counter[str]
    outcomes: Counter[str]
    right: Counter[str]


class FleetStory:
    """One device of a fleet compares two versions and tells the fleet what happened."""

    def __init__(self, narrator: Narrator, machine: Machine, broker: Broker, scene: Scene) -> None:
        self._narrator = narrator
        self._machine = machine
        self._broker = broker
        self._scene = scene
        self._db = DEMO / "fleet.db"
        self._apps = Apps(scene.socket, scene.samples, scene.labels)
        self._total = Told()

    def tell(self, control: str, treatment: str) -> Counter[str]:
        """Run the chapters; return how many requests each version was sent. Raises DemoError."""
        self._compare(control, treatment)
        self._remember()
        if self._broker.is_ours:
            self._lose_the_broker()
        self._conclude()
        # Arms without a name are called as their versions.
        return self._total.predictions

    # --- the chapters ---------------------------------------------------------------------------------------

    def _compare(self, control: str, treatment: str) -> None:
        tell, machine, scene = self._narrator, self._machine, self._scene
        tell.step("Float against 8-bit weights: an A/B test on the device")
        tell.say(
            "Both versions of Magika shall serve, each answering half of the requests. The deployment says so, "
            "and because a broker is named, edge-fleet tells devices over MQTT to look at the store now; what "
            "they run still comes from its signed documents. A collector stores what devices tell."
        )
        machine.start("collector", "edge-fleet", "collect", "--db", shown(self._db), "--mqtt", self._broker.url)
        machine.wait_until("the device to be heard of", lambda: self._counts().get("online") == 1)
        began_s = monotonic()
        machine.run(
            "edge-fleet", "deploy", shown(scene.store), "--keys", shown(scene.keys), "--group", "default",
            "--model", f"magika={control}:50,{treatment}:50", "--unit", "request", "--mqtt", self._broker.url,
        )  # fmt: skip
        both = {("magika", control), ("magika", treatment)}
        machine.wait_until("both versions", lambda: both <= self._serving())
        tell.good(
            f"Nobody touched the device: {monotonic() - began_s:.1f} s after the command both versions serve."
        )
        tell.say(
            f"Apps send each of the {len(scene.samples)} files once. An answer has a prediction id, and with "
            "it an app tells the agent later what came of the prediction: here, whether the label was right by "
            "the file's extension. What the agent acknowledges is on its disk."
        )
        told = self._send_once()
        self._check(set(told.predictions) == {control, treatment}, "both versions answer")
        self._show_arms(told)
        tell.good(f"{told.outcomes.total()} predictions, and as many outcomes acknowledged.")

    def _remember(self) -> None:
        tell = self._narrator
        tell.step("Answers that are remembered")
        tell.say(
            f"The same files come again, {ROUNDS} times. A request with the same bytes for the same version of "
            "the model is answered from the cache, with a prediction id of its own."
        )
        before = self._cache_counts()
        told = Told()
        for _ in range(ROUNDS):
            told.add(self._send_once())
        counted = self._cache_counts() - before
        kinds = [kind for kind in ("hit", "miss", "bypass") if told.cache[kind]]
        rows = [(kind, told.cache[kind], counted[kind], f"{told.median_ms(kind):.2f}") for kind in kinds]
        tell.table(["cache", "answers that say so", "counted by the agent", "median ms"], rows)
        self._check(told.cache == counted, "the agent's metrics count what the answers say")
        self._check(told.cache["hit"] > 0, "repeats are answered from the cache")
        self._check_labels()
        tell.good(
            f"{told.cache['hit']} of {told.cache.total()} requests needed no run of the model, and every "
            "remembered answer is the one that the version gave when it ran."
        )

    def _lose_the_broker(self) -> None:
        tell, machine = self._narrator, self._machine
        tell.step("The broker is killed while outcomes flow")
        tell.say(
            "Apps go on sending files and telling outcomes. In the middle the broker gets SIGKILL, and comes "
            "back some time later remembering nothing. The agent keeps what it acknowledged on its disk and "
            "tells sums that only grow, so that a message lost or seen twice changes nothing."
        )
        at = [0]
        with self._apps as apps:
            self._wait_for_outcomes(OUTCOMES_EACH)
            at.append(apps.outcomes)
            self._broker.kill()
            tell.say("  (the broker was killed)")
            machine.wait_until("the agent to notice", lambda: self._link() == "down")
            self._wait_for_outcomes(apps.outcomes + OUTCOMES_EACH)
            at.append(apps.outcomes)
            collected = self._collected().outcomes.total()
            self._broker.start()
            machine.wait_until("the agent to connect again", lambda: self._link() == "up")
            machine.wait_until(
                "the collector to hear again", lambda: self._collected().outcomes.total() > collected
            )
            self._wait_for_outcomes(apps.outcomes + OUTCOMES_EACH)
        told = self._note(self._apps.counted())
        at.append(told.outcomes.total())
        parts = ["before the broker was killed", "while it was gone", "after it was back"]
        tell.table(
            ["outcomes acknowledged", "count"],
            [(part, end - begin) for part, begin, end in zip(parts, at, at[1:], strict=False)],
        )
        self._wait_for_collector()
        tell.good(f"All {told.outcomes.total()} of them have arrived at the collector, each once.")

    def _conclude(self) -> None:
        tell, machine, scene = self._narrator, self._machine, self._scene
        tell.step("What the fleet knows")
        self._wait_for_collector()
        machine.run("edge-fleet", "status", "--db", shown(self._db))
        machine.run("edge-fleet", "ab", "--db", shown(self._db), "--store", shown(scene.store))
        (report,) = machine.ask("edge-fleet", "ab", "magika", "--db", shown(self._db))["reports"]
        (comparison,) = report["comparisons"]
        shown_counts = {arm["arm"]: (arm["exposures"], arm["n"]) for arm in comparison["arms"]}
        total = self._total
        sent = {arm: (total.predictions[arm], total.outcomes[arm]) for arm in total.predictions}
        self._check(shown_counts == sent, f"the fleet's table {shown_counts} is what was sent {sent}")
        for arm in comparison["arms"]:
            mean = total.right[arm["arm"]] / total.outcomes[arm["arm"]]
            self._check(abs(arm["mean"]["value"] - mean) < 1e-9, f"the mean of arm {arm['arm']} is {mean}")
        tell.good(
            f"The tables agree with what the apps sent: {total.predictions.total()} predictions and "
            f"{total.outcomes.total()} outcomes, arm by arm, none lost and none counted twice."
        )

    # --- what the chapters are made of ----------------------------------------------------------------------

    def _send_once(self) -> Told:
        return self._note(self._apps.once())

    def _note(self, told: Told) -> Told:
        self._check(not told.failures, f"no request or outcome fails: {told.failures[:1]}")
        self._check(told.predictions == told.outcomes, "every prediction has an outcome")
        self._total.add(told)
        return told

    def _show_arms(self, told: Told) -> None:
        self._narrator.table(
            ["version", "predictions", "outcomes", "right"],
            [
                (arm, told.predictions[arm], told.outcomes[arm], told.right[arm])
                for arm in sorted(told.predictions)
            ],
        )

    def _check_labels(self) -> None:
        differing = [path for (path, _), labels in self._total.labels.items() if len(labels) > 1]
        self._check(not differing, f"a version gives the same label each time, also to {differing[:1]}")

    def _wait_for_outcomes(self, count: int) -> None:
        self._machine.wait_until("outcomes", lambda: self._apps.outcomes >= count)

    def _wait_for_collector(self) -> None:
        total = self._total
        wanted = Collected(total.predictions, total.outcomes, total.right)
        self._machine.wait_until("all sums at the collector", lambda: self._collected() == wanted)

    def _collected(self) -> Collected:
        found = Collected(Counter(), Counter(), Counter())
        with FleetDb.read(self._db) as db:
            for row in db.sums("magika", "magika", 1):
                found.predictions.update(row.message.exposures)
                for sums in row.message.sums:
                    if sums.metric == METRIC:
                        found.outcomes[sums.arm] += sums.n
                        found.right[sums.arm] += round(sums.sum)
        return found

    def _counts(self) -> Mapping[str, int]:
        try:
            with FleetDb.read(self._db) as db:
                return db.counts()
        except EdgeAgentError:  # the collector has not made it yet
            return {}

    def _serving(self) -> set[tuple[str, str]]:
        versions = self._machine.ask("edge-agent", "models", "--config", shown(self._scene.config))["versions"]
        return {(entry["model"], entry["version"]) for entry in versions if entry["state"] == "serving"}

    def _link(self) -> str:
        state: str = self._machine.ask("edge-agent", "status", "--config", shown(self._scene.config))["link"][
            "state"
        ]
        return state

    def _cache_counts(self) -> Counter[str]:
        """Return what the agent's /metrics counts of Magika's requests, by what the cache did."""
        counts: Counter[str] = Counter()
        for labels, value in read_metric(self._scene.socket, "edge_agent_cache_requests_total"):
            if labels["model"] == "magika":
                counts[labels["result"]] += int(value)
        return counts

    def _check(self, holds: bool, claim: str) -> None:
        if not holds:
            raise DemoError(f"This did not hold: {claim}. The logs are in {shown(DEMO)}/.")
