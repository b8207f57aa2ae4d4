"""The steps of the demo, in order; each checks what it claims."""

import json
import shutil
import tempfile
from collections import Counter, defaultdict
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from edge_agent.client import Client
from examples.demo import faces, files, packages
from examples.demo.broker import Broker
from examples.demo.comparison import FleetStory, Scene
from examples.demo.files import Sample
from examples.demo.machine import DEMO, DemoError, Machine, free_port, is_listening, shown
from examples.demo.metrics import read_metric
from examples.demo.narrator import Narrator
from examples.demo.traffic import Answer, Load, Tally, classify

MOST_FILES = 300
MOST_OF_A_KIND = 25
DRAWINGS = 100
ANSWERS_OF_THE_NEW = 300
"""How many answers the new version gives under load before the load ends."""

FLOAT, QUANTIZED = "1", "2"
FACES, FACES_SMALL = "1", "2"


class Story:
    """A workshop that builds models, a store that offers them, and a device that serves them."""

    def __init__(self, narrator: Narrator, machine: Machine, broker: Broker) -> None:
        self._narrator = narrator
        self._machine = machine
        self._broker = broker
        self._workshop = DEMO / "workshop"
        self._packages = DEMO / "packages"
        self._store = DEMO / "store"
        self._keys = DEMO / "keys"
        self._config = DEMO / "device/config.toml"
        self._runtime = DEMO / "device/run"
        self._port = free_port()
        self._labels: list[str] = []
        self._samples: list[Sample] = []
        self._sent: Counter[tuple[str, str]] = Counter()

    def tell(self, keep: bool) -> None:
        """Run all steps; raises DemoError where one does not come out as told."""
        self._narrator.say(
            "This is Edge Agent on one machine, which plays all roles: a workshop that turns trained models "
            "into artifacts for devices, a store that offers signed versions, a device that pulls, checks and "
            "serves them, and a fleet that is told over MQTT how it goes. Everything happens under "
            f"{shown(DEMO)}/ and on the loopback interface."
        )
        self._convert()
        self._publish_and_deploy()
        self._start_device()
        answers = self._classify()
        self._find_faces()
        self._update_under_load(answers)
        self._refuse_what_was_tampered_with()
        self._compare()
        self._sum_up()
        if keep:
            self._keep()

    # --- the steps ------------------------------------------------------------------------------------------

    def _convert(self) -> None:
        tell = self._narrator
        tell.step("The workshop: from a trained model to an artifact")
        tell.say(
            "Two real models by Google: Magika (ONNX) tells the type of a file from its bytes, and MediaPipe's "
            "face detector (TFLite, 16-bit weights) finds faces. edge-convert measures each, writes golden "
            "samples (inputs and the answers that every device will check) and packages it with a manifest."
        )
        self._make_folders()
        self._build("magika.onnx", "magika", FLOAT, "--precision", "fp32", *self._magika_options())
        self._build("faces.tflite", "faces", FACES, "--precision", "fp16", *self._drawings())

    def _publish_and_deploy(self) -> None:
        tell, run = self._narrator, self._machine.run
        tell.step("The store: signed, in a plain folder")
        tell.say(
            "A store is a folder of static files with signatures after The Update Framework (TUF); any web "
            "server can offer it. Keys stay outside. To publish says that a version exists; to deploy says "
            "which version a group of devices shall run."
        )
        run("edge-fleet", "init", shown(self._store), "--keys", shown(self._keys), "--unencrypted")
        self._publish("magika", FLOAT)
        self._publish("faces", FACES)
        self._deploy(f"magika={FLOAT}", f"faces={FACES}")
        self._machine.start("store", "edge-fleet", "serve", shown(self._store), "--port", str(self._port))
        self._machine.wait_until("the store", lambda: is_listening(self._port))

    def _start_device(self) -> None:
        tell, machine = self._narrator, self._machine
        tell.step("The device: pull, check, serve")
        tell.say(
            "A device is given the addresses of store and broker, and the store's root.json, the one thing it "
            "trusts. At its start it knows no model. It looks at the store, verifies every signature and "
            "digest, tries each version in a separate process against its golden samples, and only then "
            "serves it."
        )
        root = shown(self._store / "root.json")
        machine.run("cp", root, shown(self._config.parent / "root.json"))
        self._write_config()
        tell.command(["cat", shown(self._config)])
        tell.output(self._config.read_text())
        self._broker.start()
        machine.start("agent", "edge-agent", "run", *self._with_config())
        machine.wait_until("the agent", lambda: self._socket.exists())
        both = {("magika", FLOAT), ("faces", FACES)}
        machine.wait_until("both models", lambda: self._serving() == both)
        machine.run("edge-agent", "status", *self._with_config())
        tell.good("Both models passed their checks on this device and are being served.")

    def _classify(self) -> list[Answer]:
        tell = self._narrator
        tell.step("Local apps ask: which type do the files of this machine have?")
        self._samples = files.find(MOST_FILES, MOST_OF_A_KIND)
        tell.say(
            f"Four threads read {len(self._samples)} real files found on this machine and send each to the "
            "agent over its Unix socket as a binary tensor (Open Inference Protocol). The right column counts "
            "the files whose extension agrees with the model."
        )
        answers, tally = classify(self._socket, self._samples)
        self._count("magika", tally)
        agreeing = self._print_labels(answers)
        self._check(tally.by_version == {FLOAT: len(self._samples)}, "every file was answered by version 1")
        self._check(agreeing >= 0.8 * len(answers), "the model and the extensions mostly agree")
        tell.good(
            f"{len(answers)} files, {agreeing} of them as their extension says; half of the answers took less "
            f"than {tally.percentile_ms(50):.1f} ms, 99 % less than {tally.percentile_ms(99):.1f} ms."
        )
        return answers

    def _find_faces(self) -> None:
        tell = self._narrator
        tell.step("The same protocol, another runtime: TFLite")
        tell.say(
            f"The face detector runs on LiteRT. {DRAWINGS} drawings, half of them with a face, go through the "
            "agent, and through the bare runtime beside it: the answers must be the same, byte for byte."
        )
        drawings = faces.drawings(DRAWINGS)
        with Client(str(self._socket)) as client:
            answers = [client.infer("faces", image).outputs for _, image in drawings]
        bare = faces.run_bare(self._workshop / "faces.tflite", [image for _, image in drawings])
        right = sum(
            faces.shows_face(answer) is truth for answer, (truth, _) in zip(answers, drawings, strict=True)
        )
        same = sum(
            all(answer[name].tobytes() == expected[name].tobytes() for name in expected)
            for answer, expected in zip(answers, bare, strict=True)
        )
        self._sent["faces", FACES] += len(answers)
        self._check(same == DRAWINGS, "the agent answers as the bare runtime does")
        self._check(right == DRAWINGS, "every drawing is judged rightly")
        tell.good(f"{same} of {DRAWINGS} answers are the bare runtime's, and {right} are right.")

    def _update_under_load(self, before: Sequence[Answer]) -> None:
        tell = self._narrator
        tell.step("A quantized version, taken up while requests flow")
        tell.say(
            "The workshop makes version 2 of Magika with 8-bit weights: smaller, and gated so that a version "
            "which answers differently is never packaged. It is deployed while four threads keep the device "
            "busy."
        )
        self._build("magika.onnx", "magika", QUANTIZED, "--precision", "dynamic", *self._magika_options())
        self._publish("magika", QUANTIZED)
        with Load(self._socket, self._samples) as load:
            self._machine.wait_until("the load", lambda: load.answered_by(FLOAT) >= ANSWERS_OF_THE_NEW)
            self._deploy(f"magika={QUANTIZED}")
            self._sync()
            self._machine.wait_until("version 2", lambda: load.answered_by(QUANTIZED) >= ANSWERS_OF_THE_NEW)
        tally = load.tally()
        self._count("magika", tally)
        tell.table(
            ["answered by", "requests"],
            [*((f"version {version}", count) for version, count in sorted(tally.by_version.items())),
             ("failed", len(tally.failures))],
        )  # fmt: skip
        self._check(not tally.failures, f"no request fails: {tally.failures[:1]}")
        self._check(self._serving() == {("magika", QUANTIZED), ("faces", FACES)}, "version 2 serves")
        after, again = classify(self._socket, self._samples)
        self._count("magika", again)
        same = sum(old.label == new.label for old, new in zip(before, after, strict=True))
        self._check(same >= 0.95 * len(after), "the quantized version answers as the float one")
        tell.good(
            f"{tally.sent} requests during the update, none failed; 99 % took less than "
            f"{tally.percentile_ms(99):.0f} ms. On the files from before, version 2 gives the same label for "
            f"{same} of {len(after)}."
        )

    def _refuse_what_was_tampered_with(self) -> None:
        tell = self._narrator
        tell.step("Someone tampers with the store")
        tell.say(
            "Version 2 of the face detector, with 8-bit weights, is published and deployed. Then an intruder "
            "on the web server flips one byte of the model file. The signed digest no longer fits, so the "
            "device refuses it and keeps serving."
        )
        self._build("faces.tflite", "faces", FACES_SMALL, "--precision", "dynamic", *self._drawings())
        self._publish("faces", FACES_SMALL)
        self._deploy(f"faces={FACES_SMALL}")
        blob = self._blob("faces", FACES_SMALL)
        genuine = blob.read_bytes()
        self._flip_a_byte(blob)
        self._sync(fails=True)
        self._still_serves(FACES)
        tell.say("The intruder puts the file back, and forges a newer timestamp that leads to other metadata.")
        blob.write_bytes(genuine)
        timestamp = self._store / "metadata/timestamp.json"
        signed = timestamp.read_bytes()
        self._forge(timestamp)
        self._sync(fails=True)
        self._still_serves(FACES)
        tell.say("Once the store is as its owner signed it, the device takes the new version.")
        timestamp.write_bytes(signed)
        self._sync()
        self._still_serves(FACES_SMALL)
        tell.good(
            "Both forgeries were refused, the running versions were left alone, and repairing the store "
            "sufficed."
        )

    def _compare(self) -> None:
        scene = Scene(self._store, self._keys, self._config, self._socket, self._samples, self._labels)
        sent = FleetStory(self._narrator, self._machine, self._broker, scene).tell(FLOAT, QUANTIZED)
        self._sent.update({("magika", version): count for version, count in sent.items()})

    def _sum_up(self) -> None:
        tell = self._narrator
        tell.step("What happened")
        self._machine.run("edge-agent", "events", *self._with_config())
        counted = self._counted_by_agent()
        rows = [
            (model, version, sent, counted[model, version])
            for (model, version), sent in sorted(self._sent.items())
        ]
        tell.blank()
        tell.table(["model", "version", "sent by the demo", "counted by the agent"], rows)
        for model, version, sent, seen in rows:
            self._check(sent == seen, f"the agent counts what was sent to {model} version {version}")
        tell.good(
            f"{sum(self._sent.values())} requests sent, the same number counted by the agent, none failed; one "
            "live update and two refused forgeries."
        )

    def _keep(self) -> None:
        tell = self._narrator
        self._machine.leave_running()
        tell.step("All is left running; commands to try")
        socket, config = shown(self._socket), self._with_config()
        example = shown(self._samples[0].path)
        for note, words in (
            ("what runs, and why", ["edge-agent", "status", *config]),
            ("one request", ["edge-agent", "infer", "faces", "--zeros", *config]),
            ("which type a file has", ["python", "-m", "examples.demo.classify", example, "--socket", socket]),
            ("back to what ran before", ["edge-agent", "rollback", *config]),
            ("checks of this host", ["edge-agent", "doctor", *config]),
            ("what the fleet runs", ["edge-fleet", "status", "--db", shown(DEMO / "fleet.db")]),
            ("which version does better", ["edge-fleet", "ab", "--db", shown(DEMO / "fleet.db")]),
            ("what is published and deployed", ["edge-fleet", "list", shown(self._store)]),
            ("to end it all", ["python", "-m", "examples.demo", "--stop"]),
        ):
            tell.command([f".venv/bin/{words[0]}", *words[1:]], note)
        tell.command(["curl", "--unix-socket", socket, "http://localhost/v2/models/magika"], "plain HTTP")

    # --- what the steps are made of --------------------------------------------------------------------------

    def _make_folders(self) -> None:
        if DEMO.exists():
            shutil.rmtree(DEMO)
        for folder in (self._workshop, self._config.parent):
            folder.mkdir(parents=True)
        if len(str(self._runtime)) > 90:
            # A Unix socket's path has at most 107 bytes.
            self._runtime = Path(tempfile.mkdtemp(prefix="edge-agent-demo-"))
        shutil.copy(packages.magika_model(), self._workshop / "magika.onnx")
        self._labels = packages.magika_labels()
        (self._workshop / "labels.txt").write_text("\n".join(self._labels) + "\n")
        shutil.copy(packages.face_model(), self._workshop / "faces.tflite")
        images = np.concatenate([image for _, image in faces.drawings(DRAWINGS)])
        np.savez(self._workshop / "drawings.npz", x=images)

    def _magika_options(self) -> list[str]:
        return ["--range", "bytes=0:256", "--labels", shown(self._workshop / "labels.txt")]

    def _drawings(self) -> list[str]:
        return ["--data", shown(self._workshop / "drawings.npz")]

    def _build(self, file: str, name: str, version: str, *options: str) -> None:
        model = shown(self._workshop / file)
        out = ["--name", name, "--version", version, "--out", shown(self._packages)]
        self._machine.run("edge-convert", "build", model, *out, *options)

    def _publish(self, name: str, version: str) -> None:
        package = shown(self._packages / name / version)
        self._machine.run("edge-fleet", "publish", shown(self._store), package, "--keys", shown(self._keys))

    def _deploy(self, *models: str) -> None:
        chosen = [word for model in models for word in ("--model", model)]
        self._machine.run(
            "edge-fleet",
            "deploy",
            shown(self._store),
            "--keys",
            shown(self._keys),
            "--group",
            "default",
            *chosen,
        )

    def _write_config(self) -> None:
        # Absolute paths: the agent may be started from any folder.
        self._config.write_text(
            f'[device]\nid = "demo-device"\n\n'
            f'[paths]\nstate = "{self._config.parent / "state"}"\nruntime = "{self._runtime}"\n\n'
            f'[store]\nurl = "http://127.0.0.1:{self._port}"\nroot = "{self._config.parent / "root.json"}"\n\n'
            f'[mqtt]\nurl = "{self._broker.url}"\nab_interval_s = 1\nmetrics_interval_s = 5\n'
        )

    @property
    def _socket(self) -> Path:
        return self._runtime / "infer.sock"

    def _with_config(self) -> list[str]:
        return ["--config", shown(self._config)]

    def _sync(self, fails: bool = False) -> None:
        self._machine.run("edge-agent", "sync", *self._with_config(), fails=fails)

    def _serving(self) -> set[tuple[str, str]]:
        versions = self._machine.ask("edge-agent", "models", *self._with_config())["versions"]
        return {(entry["model"], entry["version"]) for entry in versions if entry["state"] == "serving"}

    def _still_serves(self, version: str) -> None:
        with Client(str(self._socket)) as client:
            answer = client.infer("faces", faces.drawings(1)[0][1])
        self._sent["faces", answer.model_version] += 1
        self._check(answer.model_version == version, f"version {version} answers")
        self._narrator.good(
            f"The device serves on: version {answer.model_version} of faces answered a request."
        )

    def _blob(self, name: str, version: str) -> Path:
        """Return the store's file of a version's first variant."""
        manifest = json.loads((self._packages / name / version / "manifest.json").read_bytes())
        digest: str = manifest["variants"][0]["file"]["sha256"]
        return self._store / "blobs/sha256" / digest[:2] / digest

    def _flip_a_byte(self, path: Path) -> None:
        content = bytearray(path.read_bytes())
        content[len(content) // 2] ^= 0xFF
        path.write_bytes(content)
        self._narrator.say(f"  (one byte of {shown(path)} was flipped)")

    def _forge(self, path: Path) -> None:
        document = json.loads(path.read_bytes())
        document["signed"]["version"] += 1
        path.write_text(json.dumps(document))
        self._narrator.say(f"  ({shown(path)} was given a higher version, without the key to sign it)")

    def _print_labels(self, answers: Sequence[Answer]) -> int:
        seen: Counter[str] = Counter()
        agreeing: Counter[str] = Counter()
        extensions: defaultdict[str, set[str]] = defaultdict(set)
        for answer, sample in zip(answers, self._samples, strict=True):
            label = self._labels[answer.label]
            seen[label] += 1
            agreeing[label] += label in sample.expected
            extensions[label].add(sample.path.suffix)
        rows = [
            (label, count, agreeing[label], " ".join(sorted(extensions[label])[:5]))
            for label, count in seen.most_common(12)
        ]
        self._narrator.table(["label", "files", "agree", "extensions"], rows)
        if (others := len(seen) - len(rows)) > 0:
            self._narrator.say(f"    … and {others} more labels")
        return agreeing.total()

    def _count(self, model: str, tally: Tally) -> None:
        for version, count in tally.by_version.items():
            self._sent[model, version] += count

    def _counted_by_agent(self) -> Counter[tuple[str, str]]:
        """Return the agent's own count of requests by model and version, from its /metrics."""
        samples = read_metric(self._socket, "edge_agent_requests_total")
        return Counter({(labels["model"], labels["version"]): int(value) for labels, value in samples})

    def _check(self, holds: bool, claim: str) -> None:
        if not holds:
            raise DemoError(f"This did not hold: {claim}. The logs are in {shown(DEMO)}/.")
