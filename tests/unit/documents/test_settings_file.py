import errno
import os
import re
from dataclasses import asdict, fields, replace
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edge_agent.documents.errors import SettingsError
from edge_agent.documents.places import MAX_SOCKET_PATH_BYTES, default_device_id, default_places
from edge_agent.documents.settings import Settings
from edge_agent.documents.settings_file import _LONGEST_SOCKET_NAME, KEYS, Loaded, load
from edge_agent.store.layout import RuntimeLayout


def written(folder: Path, text: str, name: str = "config.toml") -> Path:
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    return path


def loaded(folder: Path, text: str = "", **environ: str) -> Loaded:
    return load(written(folder, text), environ, is_root=True)


def problems(folder: Path, text: str = "", **environ: str) -> list[str]:
    with pytest.raises(SettingsError) as caught:
        loaded(folder, text, **environ)
    return str(caught.value).splitlines()


def attempt(path: Path | None, environ: dict[str, str]) -> Loaded | str:
    """Return the settings, or what is said against them."""
    try:
        return load(path, environ, is_root=True)
    except SettingsError as error:
        return str(error)


def test_without_any_source_all_is_default(tmp_path: Path) -> None:
    result = load(None, {"CONFIGURATION_DIRECTORY": str(tmp_path)}, is_root=True)
    assert result.files == ()
    assert set(result.origins.values()) == {"default"}
    expected = replace(Settings(), device=result.settings.device, paths=result.settings.paths)
    assert result.settings == expected
    assert result.settings.paths.state == "/var/lib/edge-agent"
    assert result.settings.paths.runtime == "/run/edge-agent"


def test_later_sources_replace_earlier_ones_and_origins_are_kept(tmp_path: Path) -> None:
    written(tmp_path, "[store]\npoll_interval_s = 20\ntimeout_s = 2.5", "conf.d/20-b.toml")
    written(tmp_path, "[store]\npoll_interval_s = 10\n[log]\nlevel = 'debug'", "conf.d/10-a.toml")
    written(tmp_path, "this is no TOML", "conf.d/readme.txt")
    result = loaded(tmp_path, "[store]\npoll_interval_s = 5\nurl = 'https://a'", EDGE_AGENT_STORE_TIMEOUT_S="7")
    assert result.settings.store.poll_interval_s == 20
    assert result.settings.store.timeout_s == 7
    assert result.settings.log.level == "debug"
    assert result.origins["store.url"] == f"file:{tmp_path}/config.toml"
    assert result.origins["store.poll_interval_s"] == f"file:{tmp_path}/conf.d/20-b.toml"
    assert result.origins["store.timeout_s"] == "env:EDGE_AGENT_STORE_TIMEOUT_S"
    assert [path.name for path in result.files] == ["config.toml", "10-a.toml", "20-b.toml"]


def test_tables_are_merged(tmp_path: Path) -> None:
    written(tmp_path, "[device.labels]\nsite = 'ulm'\nline = '1'", "conf.d/site.toml")
    result = loaded(
        tmp_path, "[device.labels]\nhw = 'pi4'\nsite = '-'", EDGE_AGENT_DEVICE_LABELS='{line = "2"}'
    )
    assert result.settings.device.labels == {"hw": "pi4", "site": "ulm", "line": "2"}
    assert result.origins["device.labels"].split(" + ") == [
        f"file:{tmp_path}/config.toml",
        f"file:{tmp_path}/conf.d/site.toml",
        "env:EDGE_AGENT_DEVICE_LABELS",
    ]


@pytest.mark.parametrize(
    ("name", "text", "section", "value"),
    [
        ("EDGE_AGENT_HTTP_TCP_PORT", "8000", "http", 8000),
        ("EDGE_AGENT_HTTP_TCP_PORT", "", "http", None),
        ("EDGE_AGENT_HTTP_SOCKET_MODE", "0o600", "http", 0o600),
        ("EDGE_AGENT_STORE_URL", "http://h:8100/x?y=1", "store", "http://h:8100/x?y=1"),
        ("EDGE_AGENT_STORE_URL", '"http://h"', "store", "http://h"),
        ("EDGE_AGENT_DEVICE_ID", "123", "device", "123"),
        ("EDGE_AGENT_DEVICE_ID", "true", "device", "true"),
        ("EDGE_AGENT_LOG_LEVEL", "error", "log", "error"),
        ("EDGE_AGENT_ENGINES_ONNX_PROVIDERS", '["A", "B"]', "engines", ("A", "B")),
        ("EDGE_AGENT_STORE_POLL_INTERVAL_S", "1.5", "store", 1.5),
    ],
)
def test_variables_are_read_as_the_key_wants(
    tmp_path: Path, name: str, text: str, section: str, value: object
) -> None:
    key = name.removeprefix(f"EDGE_AGENT_{section.upper()}_").lower()
    result = loaded(tmp_path, **{name: text})
    assert getattr(getattr(result.settings, section), key) == value
    assert result.origins[f"{section}.{key}"] == f"env:{name}"


def test_every_problem_is_told_at_once_with_its_place_and_what_is_allowed(tmp_path: Path) -> None:
    text = """
        colour = "red"
        log = "debug"
        [store]
        url = "ftp://x"
        pol_interval_s = 3
        timeout_s = "soon"
        [htpp]
        [http]
        tcp_port = 70000
        metrics_port = 1.0
        socket_mode = 2026-01-01
        [engines]
        threads = true
        onnx_providers = "CPUExecutionProvider"
        tflite_runtime = "tensorflow"
        [device]
        labels = { rack = 7 }
        [probe]
        timeout_s = nan
    """
    found = problems(tmp_path, text, EDGE_AGENT_STORE_UR="x", EDGE_AGENT_SUPERVISOR_CRASH_LIMIT="0")
    config = f"{tmp_path}/config.toml"
    assert sorted(found) == sorted(
        [
            f"{config}: there is no section [colour]; there are {', '.join(KEYS)}.",
            f"{config}: 'log' is a section, write [log] and its keys below.",
            f"{config}: section [store] has no key 'pol_interval_s', did you mean 'poll_interval_s'?",
            f"{config}: there is no section [htpp], did you mean 'http'?",
            "EDGE_AGENT_STORE_UR (environment) is no setting, did you mean 'EDGE_AGENT_STORE_URL'?",
            f'{config}: store.url is "ftp://x", but must begin with http://, https:// or file:// and name a '
            "host or a folder.",
            f'{config}: store.timeout_s is "soon", but must be a number above 0.',
            f"{config}: http.tcp_port is 70000, but must be a whole number from 0 to 65535.",
            f"{config}: http.metrics_port is 1.0, but must be a whole number from 0 to 65535.",
            f'{config}: http.socket_mode is "2026-01-01", but must be a whole number from 0 to 511.',
            f"{config}: engines.threads is true, but must be a whole number from 0 to 1024.",
            f'{config}: engines.onnx_providers is "CPUExecutionProvider", but must be a list of text.',
            f'{config}: engines.tflite_runtime is "tensorflow", but must be one of "auto", "ai-edge-litert", '
            '"tflite-runtime".',
            f'{config}: device.labels is {{"rack": 7}}, but must be a table of text.',
            f"{config}: probe.timeout_s is NaN, but must be a number above 0.",
            "EDGE_AGENT_SUPERVISOR_CRASH_LIMIT (environment): supervisor.crash_limit is 0, but must be a whole "
            "number of at least 1.",
        ]
    )


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("[device]\nid = 'a b'", r"device\.id is \"a b\", but must be 1 to 64 of letters"),
        ("[device]\nid = '" + "x" * 65 + "'", r"device\.id"),
        ("[store]\nurl = 'file://host/x'", r"store\.url"),
        ("[store]\nurl = 'https://'", r"store\.url"),
        ("[store]\nurl = 'http://[::1'", r"store\.url"),
        ("[store]\nclient_key = 'k.pem'", r"store\.client_key needs store\.client_certificate"),
        ("[http]\ntcp_port = 9000\nmetrics_port = 9000", r"both 9000; give one of them another port"),
        ("[engines]\nonnx_providers = []", r"must name at least one provider"),
        (
            f"[paths]\nruntime = '/{'r' * 107}'",
            r"socket path of 119 bytes, and Linux allows 107; choose a shorter",
        ),
    ],
)
def test_values_that_do_not_fit_together_are_problems(tmp_path: Path, text: str, says: str) -> None:
    (problem,) = problems(tmp_path, text)
    assert problem.startswith(f"{tmp_path}/config.toml: ")
    assert re.search(says, problem)
    assert problem.endswith(".")


def test_files_that_cannot_be_used(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match=r"There is no settings file .*absent\.toml; create it"):
        load(tmp_path / "absent.toml", {})
    assert re.search(r"config\.toml is not valid TOML: .*line 2", problems(tmp_path, "[store]\nurl = x")[0])
    (tmp_path / "config.toml").write_bytes(b"\xff\xfe")
    with pytest.raises(SettingsError, match="is not UTF-8 text"):
        load(tmp_path / "config.toml", {})
    with pytest.raises(SettingsError, match=r"Cannot read .*: Is a directory"):
        load(tmp_path, {})


def test_a_file_that_may_not_be_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(path: Path, encoding: str) -> str:  # as root, under which CI runs, every file can be read
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))

    monkeypatch.setattr(Path, "read_text", refused)
    with pytest.raises(SettingsError, match=r"Cannot read .*config\.toml: Permission denied; check its"):
        load(tmp_path / "config.toml", {})


def test_a_missing_drop_in_folder_and_an_empty_file_are_fine(tmp_path: Path) -> None:
    assert loaded(tmp_path).settings.http == Settings().http


def test_relative_paths_belong_to_the_file_that_names_them(tmp_path: Path) -> None:
    text = "[store]\nroot = 'root.json'\nca_bundle = '/etc/ca.pem'\n[paths]\nstate = '../s'"
    settings = loaded(tmp_path / "etc", text, EDGE_AGENT_STORE_CLIENT_CERTIFICATE="c.pem").settings
    assert settings.store.root == f"{tmp_path}/etc/root.json"
    assert settings.store.ca_bundle == "/etc/ca.pem"
    assert settings.store.client_certificate == str(Path.cwd() / "c.pem")
    assert settings.paths.state == f"{tmp_path}/s"


def test_what_kubernetes_sets_for_a_service_of_our_name_is_no_setting(tmp_path: Path) -> None:
    loaded(
        tmp_path,
        EDGE_AGENT_SERVICE_HOST="10.0.0.1",
        EDGE_AGENT_SERVICE_PORT="80",
        EDGE_AGENT_SERVICE_PORT_HTTP="80",
        EDGE_AGENT_PORT="tcp://10.0.0.1:80",
        EDGE_AGENT_PORT_80_TCP_ADDR="10.0.0.1",
    )


def test_settings_survive_the_way_to_the_agent(tmp_path: Path) -> None:
    text = "[device.labels]\na = 'b'\n[http]\ntcp_port = 1\n[engines]\nonnx_providers = ['A']"
    settings = loaded(tmp_path, text).settings
    assert msgspec.json.decode(msgspec.json.encode(settings), type=Settings) == settings


@settings(deadline=None)  # it reads the settings once for each of them
@given(text=st.text(max_size=40))
def test_no_text_in_a_variable_breaks_the_reader(text: str, tmp_path_factory: pytest.TempPathFactory) -> None:
    folder = tmp_path_factory.getbasetemp()
    for section, keys in KEYS.items():
        for key in keys:
            name = f"EDGE_AGENT_{section}_{key}".upper()
            result = attempt(None, {"CONFIGURATION_DIRECTORY": str(folder), name: text})
            if isinstance(result, str):
                assert f"{section}.{key}" in result
                assert name in result
            else:
                assert result.origins[f"{section}.{key}"] == f"env:{name}"


_TOML_VALUES: st.SearchStrategy[Any] = st.recursive(
    st.booleans() | st.integers(-(2**63), 2**63 - 1) | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=3),
    max_leaves=5,
)


@given(value=_TOML_VALUES, data=st.data())
def test_whatever_is_accepted_has_the_type_of_its_key(
    value: Any, data: st.DataObject, tmp_path_factory: pytest.TempPathFactory
) -> None:
    section = data.draw(st.sampled_from(sorted(KEYS)))
    key = data.draw(st.sampled_from(sorted(KEYS[section])))
    path = tmp_path_factory.getbasetemp() / "any.toml"
    path.write_text(f"[{section}]\n{key} = {_toml(value)}\n", encoding="utf-8")
    result = attempt(path, {})
    if isinstance(result, str):
        assert f"{section}.{key}" in result
    else:
        assert msgspec.json.decode(msgspec.json.encode(result.settings), type=Settings) == result.settings


def _toml(value: Any) -> str:
    match value:
        case bool():
            return "true" if value else "false"
        case str():
            return (
                '"' + "".join(f"\\U{ord(char):08x}" for char in value if not 0xD800 <= ord(char) < 0xE000) + '"'
            )
        case list():
            return f"[{', '.join(_toml(item) for item in value)}]"
        case dict():
            return f"{{{', '.join(f'k{n} = {_toml(item)}' for n, item in enumerate(value.values()))}}}"
        case _:
            return repr(value)


# --- places -------------------------------------------------------------------------------------------------


def test_places_of_systemd_come_first() -> None:
    environ = {"STATE_DIRECTORY": "/s:/t", "RUNTIME_DIRECTORY": "/r", "CONFIGURATION_DIRECTORY": "/c"}
    for is_root in (True, False):
        places = default_places(environ, is_root)
        assert (places.state, places.runtime, places.config) == (Path("/s"), Path("/r"), Path("/c/config.toml"))


def test_places_of_a_user(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "c"))
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "s"))
    places = default_places({"XDG_RUNTIME_DIR": str(tmp_path)}, is_root=False)
    assert places.config == tmp_path / "c/edge-agent/config.toml"
    assert places.state == tmp_path / "s/edge-agent"
    assert places.runtime == tmp_path / "edge-agent"


def test_a_user_without_a_runtime_folder_has_one_in_the_temporary_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    monkeypatch.setattr("os.access", lambda *_: False)
    places = default_places({"XDG_RUNTIME_DIR": "/nowhere"}, is_root=False)
    assert places.runtime == tmp_path / f"runtime-{os.geteuid()}" / "edge-agent"


def test_the_device_id_is_derived_and_does_not_give_the_machine_id_away(tmp_path: Path) -> None:
    path = tmp_path / "machine-id"
    path.write_text("3d1219c7c4c5404aaa1f6d2a48adfda4\n")
    first = default_device_id(path)
    assert re.fullmatch("[0-9a-f]{16}", first)
    assert first == default_device_id(path)
    path.write_text("3d1219c7c4c5404aaa1f6d2a48adfda5\n")
    assert default_device_id(path) != first


@pytest.mark.parametrize("content", [None, b"", b"uninitialized\n", b"\xff"])
def test_without_a_machine_id_the_host_name_is_the_device_id(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, content: bytes | None
) -> None:
    path = tmp_path / "machine-id"
    if content is not None:
        path.write_bytes(content)
    monkeypatch.setattr("socket.gethostname", lambda: "cam-3.ulm")
    assert default_device_id(path) == "cam-3-ulm"


def test_the_socket_names_that_the_length_is_checked_with_are_those_of_the_layout() -> None:
    layout = RuntimeLayout(Path("/r"))
    longest = max(len(layout.infer_socket.name), len(layout.admin_socket.name))
    assert len(_LONGEST_SOCKET_NAME) == longest
    assert MAX_SOCKET_PATH_BYTES == 107


def test_every_setting_has_an_origin(tmp_path: Path) -> None:
    result = loaded(tmp_path)
    values = asdict(result.settings)
    assert set(values) == {item.name for item in fields(Settings)}
    assert set(result.origins) == {f"{section}.{key}" for section in values for key in values[section]}
