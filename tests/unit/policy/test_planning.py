from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge_agent.documents.deployment import (
    Arm,
    CachePolicy,
    Candidate,
    Choice,
    Deployment,
    Experiment,
    GroupRule,
    Groups,
    ModelDeployment,
    Rollout,
)
from edge_agent.documents.errors import DocumentError, ModelError
from edge_agent.documents.manifest import (
    File,
    Golden,
    Manifest,
    Requirements,
    Source,
    Tensor,
    Tolerance,
    Variant,
)
from edge_agent.documents.plan import ArmPlan, Limit, ModelPlan, Plan
from edge_agent.policy.planning import Device, compile_plan, files_of, group_of, pick_variant, select

NOW = datetime(2026, 11, 22, tzinfo=UTC)
DEVICE = Device(
    id="d1",
    architecture="aarch64",
    runtimes={"onnx": "onnxruntime 1.32.0", "tflite": "tflite-runtime 2.14.0"},
    execution_providers=("CPUExecutionProvider",),
    memory_bytes=2**30,
)


def a_file(number: int, compression: str = "none") -> File:
    return File(sha256=f"{number:064x}", size_bytes=100 + number, compression=compression)


def a_packed_file(number: int) -> File:
    return File(
        sha256=f"{number:064x}",
        size_bytes=100 + number,
        compression="zstd",
        content_sha256=f"{1000 + number:064x}",
        content_size_bytes=2000 + number,
    )


def a_packed_variant(number: int) -> Variant:
    return a_variant(number).model_copy(update={"file": a_packed_file(number)})


def a_variant(number: int, engine: str = "onnx", compression: str = "none", **requires: Any) -> Variant:
    return Variant(
        engine=engine,
        precision="int8",
        file=a_file(number, compression),
        requires=Requirements(**requires),
        tolerances={"y": Tolerance(atol=0.5)},
    )


def a_manifest(*variants: Variant, name: str = "m", version: str = "1", golden: File | None = None) -> Manifest:
    return Manifest(
        name=name,
        version=version,
        timestamp=NOW,
        source=Source(framework="onnx", sha256="0" * 64),
        inputs=(Tensor(name="x", datatype="FP32", shape=(-1, 2)),),
        outputs=(Tensor(name="y", datatype="FP32", shape=(-1, 3)),),
        labels=("a", "b", "c"),
        golden=None if golden is None else Golden(file=golden, samples=3),
        variants=variants or (a_variant(1),),
    )


def a_deployment(candidate: Candidate | None = None, **models: tuple[Arm, ...]) -> Deployment:
    chosen = {name: ModelDeployment(arms=arms) for name, arms in models.items()}
    return Deployment(group="g", serial=7, timestamp=NOW, stable=Choice(models=chosen), candidate=candidate)


def a_plan(deployment: Deployment, manifests: list[Manifest], device: Device = DEVICE) -> Plan:
    by_name = {(manifest.name, manifest.version): manifest for manifest in manifests}
    return compile_plan(
        deployment, select(deployment, device.id, NOW), by_name, device, lambda digest: f"/b/{digest}"
    )


class TestGroups:
    RULES = Groups(
        rules=(
            GroupRule(group="bench", labels={"id": "d9"}),
            GroupRule(group="south-3", labels={"site": "ulm", "line": "3"}),
            GroupRule(group="south", labels={"site": "ulm"}),
        ),
        default="rest",
    )

    @pytest.mark.parametrize(
        ("device", "labels", "group"),
        [
            ("d1", {}, "rest"),
            ("d9", {"site": "ulm"}, "bench"),
            ("d1", {"site": "ulm"}, "south"),
            ("d1", {"site": "ulm", "line": "3"}, "south-3"),
            ("d1", {"line": "3"}, "rest"),
            ("d1", {"id": "d9"}, "rest"),
        ],
    )
    def test_the_first_rule_that_matches_wins(self, device: str, labels: dict[str, str], group: str) -> None:
        assert group_of(self.RULES, device, labels) == group

    @given(st.dictionaries(st.text(), st.text()))
    def test_a_rule_without_labels_matches_all(self, labels: dict[str, str]) -> None:
        assert group_of(Groups(rules=(GroupRule(group="all"),)), "d1", labels) == "all"


class TestSelect:
    def test_devices_inside_the_rollout_run_the_candidate(self) -> None:
        deployed = {"m": ModelDeployment(arms=(Arm(version="2"),))}
        inside, outside = (
            a_deployment(
                Candidate(models=deployed, rollout=Rollout(salt="s", percentage=percentage)),
                m=(Arm(version="1"),),
            )
            for percentage in (100, 0)
        )
        assert select(inside, "d1", NOW).origin == "candidate"
        assert select(inside, "d1", NOW).wanted == (("m", "2"),)
        assert select(outside, "d1", NOW).origin == "stable"
        assert select(outside, "d1", NOW).wanted == (("m", "1"),)


class TestPickVariant:
    def test_the_first_that_can_run_is_taken(self) -> None:
        manifest = a_manifest(a_variant(1, engine="npu"), a_variant(2), a_variant(3))
        assert pick_variant(manifest, DEVICE).file.sha256 == a_file(2).sha256

    @pytest.mark.parametrize(
        ("variant", "reason"),
        [
            (a_variant(1, engine="npu"), "no runtime installed"),
            (a_variant(1, compression="lzma"), "unknown compression lzma"),
            (a_variant(1, architectures=("x86_64",)), "built for x86_64, not for aarch64"),
            (a_variant(1, engine="tflite", runtimes=("ai-edge-litert",)), "not for tflite-runtime"),
            (a_variant(1, execution_providers=("CUDAExecutionProvider",)), "needs the execution provider CUDA"),
            (a_variant(1, memory_bytes=2**31), "needs 2048 MiB of memory"),
        ],
    )
    def test_one_that_cannot_run_is_passed_over_with_the_reason(self, variant: Variant, reason: str) -> None:
        assert pick_variant(a_manifest(variant, a_variant(2)), DEVICE).file.sha256 == a_file(2).sha256
        with pytest.raises(ModelError, match=reason):
            pick_variant(a_manifest(variant), DEVICE)

    def test_what_is_asked_for_and_there_is_no_obstacle(self) -> None:
        variant = a_variant(
            1,
            architectures=("x86_64", "aarch64"),
            runtimes=("onnxruntime",),
            execution_providers=("CPUExecutionProvider",),
            memory_bytes=2**30,
        )
        assert pick_variant(a_manifest(variant), DEVICE) is variant

    def test_without_the_library_a_compressed_variant_is_passed_over(self) -> None:
        bare = replace(DEVICE, compressions=frozenset({"none"}))
        assert pick_variant(a_manifest(a_packed_variant(1), a_variant(2)), bare).file == a_file(2)
        with pytest.raises(ModelError, match=r"compressed with zstd, for which no library is installed"):
            pick_variant(a_manifest(a_packed_variant(1)), bare)

    def test_a_compressed_file_is_quarantined_by_its_content(self) -> None:
        manifest = a_manifest(a_packed_variant(1), a_variant(2))
        device = replace(DEVICE, quarantined={f"{1001:064x}": "crashed"})
        assert pick_variant(manifest, device).file == a_file(2)

    def test_a_quarantined_file_is_passed_over_until_none_is_left(self) -> None:
        manifest = a_manifest(a_variant(1), a_variant(2))
        once = replace(DEVICE, quarantined={a_file(1).sha256: "crashed"})
        twice = replace(DEVICE, quarantined={a_file(1).sha256: "crashed", a_file(2).sha256: "hung"})
        assert pick_variant(manifest, once).file.sha256 == a_file(2).sha256
        with pytest.raises(ModelError, match=r"quarantined, crashed; .*quarantined, hung"):
            pick_variant(manifest, twice)


class TestCompilePlan:
    def test_everything_is_carried_over(self) -> None:
        manifest = a_manifest(a_variant(1), golden=a_file(9))
        plan = a_plan(a_deployment(m=(Arm(version="1", weight=3),)), [manifest])
        (version,) = plan.versions
        assert (plan.origin, plan.group, plan.serial) == ("stable", "g", 7)
        assert (version.path, version.golden_path) == (f"/b/{a_file(1).sha256}", f"/b/{a_file(9).sha256}")
        assert (version.size_bytes, version.golden_samples, version.weight) == (101, 3, 3)
        assert (version.inputs[0].shape, version.labels) == ((-1, 2), ("a", "b", "c"))
        assert version.tolerances == {"y": Limit(0.5, 0.0)}
        assert files_of(plan, {("m", "1"): manifest}) == {
            a_file(1).sha256: a_file(1),
            a_file(9).sha256: a_file(9),
        }

    def test_models_are_sorted_and_arms_keep_their_order(self) -> None:
        manifests = [a_manifest(name="b", version="1"), a_manifest(name="b", version="2"), a_manifest(name="a")]
        plan = a_plan(a_deployment(b=(Arm(version="2"), Arm(version="1")), a=(Arm(version="1"),)), manifests)
        assert [(version.model, version.version) for version in plan.versions] == [
            ("a", "1"),
            ("b", "2"),
            ("b", "1"),
        ]

    def test_a_compressed_file_is_planned_by_its_content(self) -> None:
        manifest = a_manifest(a_variant(5, compression="lzma"), a_packed_variant(1), golden=a_packed_file(9))
        plan = a_plan(a_deployment(m=(Arm(version="1"),)), [manifest])
        (version,) = plan.versions
        content = f"{1001:064x}"
        assert (version.sha256, version.path, version.size_bytes) == (content, f"/b/{content}", 2001)
        assert version.golden_path == f"/b/{1009:064x}"
        assert files_of(plan, {("m", "1"): manifest}) == {
            content: a_packed_file(1),
            f"{1009:064x}": a_packed_file(9),
        }

    def test_the_same_content_is_fetched_in_the_form_that_the_device_can_read(self) -> None:
        packed = a_packed_file(1)
        plain = File(sha256=packed.kept_sha256, size_bytes=packed.kept_size_bytes)
        variants = (a_packed_variant(1), a_variant(1).model_copy(update={"file": plain}))
        device = replace(DEVICE, compressions=frozenset({"none"}))
        manifest = a_manifest(*variants)
        plan = a_plan(a_deployment(m=(Arm(version="1"),)), [manifest], device)
        assert files_of(plan, {("m", "1"): manifest}, device.compressions) == {plain.sha256: plain}

    def test_golden_samples_in_an_unknown_compression_are_refused(self) -> None:
        manifest = a_manifest(a_variant(1), golden=a_file(9, "lzma"))
        with pytest.raises(DocumentError, match="golden samples of m 1"):
            a_plan(a_deployment(m=(Arm(version="1"),)), [manifest])

    @given(st.permutations(["a", "b", "c"]), st.floats(0.1, 10))
    def test_equal_choices_give_equal_plans(self, names: list[str], weight: float) -> None:
        def plan(order: list[str]) -> Plan:
            deployment = a_deployment(**{name: (Arm(version="1", weight=weight),) for name in order})
            return a_plan(deployment, [a_manifest(name=name) for name in order])

        assert plan(names) == plan(sorted(names))
        assert len(plan(names).id) == 16


class TestArms:
    TWO = (Arm(version="1", name="old", weight=3.0), Arm(version="2"))
    MANIFESTS = [a_manifest(a_variant(1), version="1"), a_manifest(a_variant(2), version="2")]

    def deployment(self, **options: Any) -> Deployment:
        deployed = ModelDeployment(arms=self.TWO, **options)
        return Deployment(group="g", serial=7, timestamp=NOW, stable=Choice(models={"m": deployed}))

    def test_the_plan_says_how_requests_are_assigned_and_remembered(self) -> None:
        plan = a_plan(
            self.deployment(
                unit="key",
                experiment=Experiment(name="x", salt="s", epoch=4),
                cache=CachePolicy(enabled=False, ttl_s=5.0, max_input_bytes=9),
            ),
            self.MANIFESTS,
        )
        arms = (ArmPlan("old", "1", 3.0), ArmPlan("2", "2", 1.0))
        assert plan.policies == (ModelPlan("m", arms, "key", "x", 4, "s", False, 5.0, 9),)
        assert [(version.version, version.arm) for version in plan.versions] == [("1", "old"), ("2", "2")]

    def test_without_an_experiment_it_is_named_after_the_model(self) -> None:
        policy = a_plan(self.deployment(), self.MANIFESTS).policy("m")
        assert (policy.experiment, policy.epoch, policy.salt, policy.cache) == ("m", 0, "m", True)

    @given(st.text(min_size=1, max_size=20))
    def test_a_device_that_is_the_unit_has_its_own_arm_alone(self, device: str) -> None:
        deployment = self.deployment(unit="device")
        wanted = select(deployment, device, NOW).wanted
        assert wanted in ((("m", "1"),), (("m", "2"),))
        found = [manifest for manifest in self.MANIFESTS if ("m", manifest.version) in wanted]
        plan = a_plan(deployment, found, replace(DEVICE, id=device))
        assert [("m", version.version) for version in plan.versions] == list(wanted)
        assert len(plan.policy("m").arms) == 2
        assert len(files_of(plan, {("m", found[0].version): found[0]})) == 1

    def test_devices_are_shared_out_by_weight(self) -> None:
        deployment = self.deployment(unit="device")
        own = [select(deployment, f"device-{number}", NOW).wanted[0][1] for number in range(1000)]
        assert 700 < own.count("1") < 800
