import json
from pathlib import Path

from converters.report.model import Package, VariantRow, timeless
from edge_agent.documents.manifest import File, Manifest, Source, Tensor, Variant
from support import reports


def test_json_has_the_keys_that_are_promised() -> None:
    own = reports.example()
    content = own.as_json()

    assert list(content) == [
        "schema", "name", "version", "timestamp", "source", "inputs", "outputs", "metric", "float", "variants",
        "calibration", "sensitivities", "search", "pruning", "preprocessing", "gate", "evaluation",
        "golden_samples", "recipe", "tools", "notes",
    ]  # fmt: skip
    assert content["schema"] == 1
    assert content["timestamp"] == "2026-11-24T10:15:00+00:00"
    assert content["inputs"] == [{"name": "image", "datatype": "FP32", "shape": [-1, 28, 28, 1]}]
    assert content["float"]["score"] == 0.9412
    assert list(content["variants"][0]) == ["label", *VariantRow.__dataclass_fields__]
    assert content["variants"][0]["excluded"] == ["block_1/expand", "head/dense"]
    assert content["search"][1] == {"kept": ["block_1/expand"], "drop": 1.32}
    assert content["gate"]["max_latency_ms"] == 0.45


def test_json_is_plain() -> None:
    content = reports.example().as_json()

    assert json.loads(json.dumps(content, allow_nan=False)) == content


def test_without_times_only_what_is_measured_in_time_goes() -> None:
    own = reports.example()
    content = own.as_json(with_times=False)

    assert content == timeless(own).as_json()
    assert {row["latency_ms"] for row in content["variants"]} == {None}
    assert {row["memory_bytes"] for row in content["variants"]} == {None}
    assert content["variants"][0]["score"] == 0.9391
    assert content["calibration"] == own.as_json()["calibration"]


def test_row_is_called_after_engine_precision_and_architectures() -> None:
    rows = reports.example().rows

    assert [rows[0].label, rows[2].label] == ["onnx int8 (x86_64)", "tflite int8"]
    assert rows[0].travel_bytes == rows[0].compressed_bytes
    assert VariantRow("fp32", "onnx", (), packaged=True, size_bytes=5).travel_bytes == 5


def test_package_is_its_report_and_where_it_lies() -> None:
    own = reports.example()
    tensor = Tensor(name="x", datatype="FP32", shape=(1,))
    file = File(sha256="0" * 64, size_bytes=1)
    manifest = Manifest(
        name=own.name,
        version=own.version,
        timestamp=own.timestamp,
        source=Source(framework="keras", sha256="0" * 64),
        inputs=(tensor,),
        outputs=(tensor,),
        variants=(Variant(engine="onnx", precision="int8", file=file),),
    )
    package = Package(Path("out/animals/1"), manifest, own, is_new=False)

    content = package.as_json()

    assert (content["folder"], content["new"]) == ("out/animals/1", False)
    assert package.rows == own.rows
    assert package.notes == own.notes
    assert {**content, "schema": 1}.items() >= own.as_json().items()
