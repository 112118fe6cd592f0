"""The host's configuration file: read whole, or refused with the file, the key and what to do."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable
from pathlib import Path

import pytest

from hostagent.edges import hostconfig
from hostagent.edges.hostconfig import HostConfig, load, watch
from hostagent.model.errors import ConfigError


def written(directory: Path, text: str) -> Path:
    path = directory / "config.toml"
    path.write_text(text)
    return path


def test_an_empty_file_means_the_defaults(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(socket, "gethostname", lambda: "Rack1-H1.example.org")
    config = load(written(tmp_path, ""))
    assert config == HostConfig(node="rack1-h1.example.org")
    assert (config.namespace, config.load_balancer_class, config.allocator) == ("metallb-system", "", True)
    assert (config.hang_timeout_s, config.session.duration_s, config.session.renew_s) == (10, 15.0, 5.0)
    assert (config.on_api_loss, config.on_cordon, config.preempt_delay_s) == ("hold", "keep", 30.0)
    assert config.kubernetes.kubeconfig == "/etc/hostagent/kubeconfig"
    assert config.kubernetes.servers == ()
    assert config.log.level == "info"
    assert config.metrics.endpoint == ("127.0.0.1", 7474)


def test_every_key_is_read(tmp_path: Path) -> None:
    config = load(
        written(
            tmp_path,
            """
            node = "h1"
            namespace = "lb"
            load_balancer_class = "example.com/lb"
            allocator = false
            hang_timeout_s = 5
            on_api_loss = "fence"
            on_cordon = "drain"
            preempt_delay_s = 0
            [kubernetes]
            kubeconfig = "/k"
            servers = ["https://192.0.2.1:6443"]
            [session]
            duration_s = 20
            renew_s = 4.5
            [log]
            level = "debug"
            [metrics]
            listen = "[2001:db8::1]:9100"
            """,
        )
    )
    assert (config.node, config.namespace, config.load_balancer_class) == ("h1", "lb", "example.com/lb")
    assert (config.allocator, config.hang_timeout_s) == (False, 5)
    assert (config.on_api_loss, config.on_cordon, config.preempt_delay_s) == ("fence", "drain", 0.0)
    assert (config.kubernetes.kubeconfig, config.kubernetes.servers) == ("/k", ("https://192.0.2.1:6443",))
    assert (config.session.duration_s, config.session.renew_s, config.log.level) == (20.0, 4.5, "debug")
    assert config.metrics.endpoint == ("2001:db8::1", 9100)


def test_metrics_can_be_turned_off(tmp_path: Path) -> None:
    assert load(written(tmp_path, 'node = "h1"\n[metrics]\nlisten = ""')).metrics.endpoint is None


@pytest.mark.parametrize(
    "listen",
    [
        "7474", ":7474", "localhost:7474", "192.0.2.1", "::1:7474", "[::1]", "[192.0.2.1]:1", "192.0.2.1:0",
        "192.0.2.1:65536", "192.0.2.1: 7",
    ],
)  # fmt: skip
def test_where_metrics_cannot_be_listened_at_is_told(tmp_path: Path, listen: str) -> None:
    with pytest.raises(ConfigError, match=r'metrics\.listen: ".*" is not an address and a port, such as'):
        load(written(tmp_path, f'[metrics]\nlisten = "{listen}"'))


def test_an_empty_node_means_the_host_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(socket, "gethostname", lambda: "h7")
    assert load(written(tmp_path, 'node = ""')).node == "h7"


def test_a_host_name_that_no_node_can_have_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(socket, "gethostname", lambda: "rack_1")
    with pytest.raises(ConfigError, match=r'config\.toml: node: this host is called "rack_1".*set node'):
        load(written(tmp_path, ""))


@pytest.mark.parametrize(
    ("text", "says"),
    [
        pytest.param("node = h1\n", ["not valid TOML", "line 1"], id="toml"),
        pytest.param("nodes = 'h1'", ["nodes: unknown key (is it misspelt?)", "node, namespace"], id="unknown-key"),
        pytest.param(
            "[session]\nduration = 9", ["session.duration: unknown key", "duration_s, renew_s"], id="in-table"
        ),
        pytest.param("[sessions]", ["sessions: unknown key", "kubernetes, session, log, metrics"], id="unknown-table"),
        pytest.param("node = 'H_1'", ["node must be a Node's name", "lower-case"], id="node"),
        pytest.param("namespace = ''", ["namespace must be a namespace's name"], id="namespace"),
        pytest.param("allocator = 'yes'", ["allocator: Expected `bool`, got `str`"], id="bool"),
        pytest.param("hang_timeout_s = 2", ["hang_timeout_s: Expected `int` >= 3"], id="too-short"),
        pytest.param("hang_timeout_s = 601", ["hang_timeout_s: Expected `int` <= 600"], id="too-long"),
        pytest.param("hang_timeout_s = 9.5", ["hang_timeout_s: Expected `int`, got `float`"], id="whole-seconds"),
        pytest.param("on_api_loss = 'drop'", ["on_api_loss: Invalid enum value 'drop'"], id="on-api-loss"),
        pytest.param("on_cordon = true", ["on_cordon: Expected `str`, got `bool`"], id="on-cordon"),
        pytest.param("preempt_delay_s = -1", ["preempt_delay_s: Expected `float` >= 0"], id="preempt-delay"),
        pytest.param("preempt_delay_s = 3601", ["preempt_delay_s: Expected `float` <= 3600"], id="preempt-delay-long"),
        pytest.param("session = 9", ["session: Expected `object`, got `int`"], id="no-table"),
        pytest.param("[session]\nrenew_s = 0", ["session.renew_s: Expected `float` > 0"], id="zero"),
        pytest.param("[session]\nduration_s = inf", ["session.duration_s: Expected `float` <= 3600"], id="infinite"),
        pytest.param(
            "[session]\nrenew_s = 6",
            ["session.duration_s = 15 is too short for session.renew_s = 6", "at least 16, or renew_s lower"],
            id="a-lost-renewal-costs-the-vips",
        ),
        pytest.param("[log]\nlevel = 'loud'", ["log.level: Invalid enum value 'loud'"], id="level"),
        pytest.param(
            "[kubernetes]\nservers = ['http://x:80']",
            ['kubernetes.servers: "http://x:80" must begin with https://'],
            id="plain-http",
        ),
        pytest.param("[kubernetes]\nservers = 'https://x'", ["kubernetes.servers: Expected `array`"], id="no-list"),
    ],
)
def test_what_is_wrong_is_told_with_file_key_and_remedy(tmp_path: Path, text: str, says: list[str]) -> None:
    path = written(tmp_path, text)
    with pytest.raises(ConfigError) as refused:
        load(path)
    assert str(refused.value).startswith(f"{path}: ")
    for words in says:
        assert words in str(refused.value)


def test_a_file_that_cannot_be_read_is_told(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"config\.toml: cannot be read: No such file"):
        load(tmp_path / "config.toml")
    with pytest.raises(ConfigError, match="cannot be read: Is a directory"):
        load(tmp_path)
    (tmp_path / "latin.toml").write_bytes(b'node = "h\xe9"')
    with pytest.raises(ConfigError, match=r"latin\.toml: is not UTF-8 text: .* at byte 9"):
        load(tmp_path / "latin.toml")


def replaced(path: Path) -> None:
    fresh = path.with_suffix(".new")
    fresh.write_text("node = 'h2'")
    fresh.replace(path)


@pytest.mark.parametrize(
    "change",
    [
        pytest.param(lambda path: path.write_text("node = 'h2'"), id="written"),
        pytest.param(replaced, id="replaced-by-renaming"),
        pytest.param(lambda path: path.unlink(), id="removed"),
    ],
)
def test_a_change_of_a_watched_file_is_noticed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, change: Callable[[Path], object]
) -> None:
    monkeypatch.setattr(hostconfig, "SETTLE_S", 0.01)
    path = written(tmp_path, "")
    asyncio.run(asyncio.wait_for(_seen(path, lambda: change(path)), 10))


def test_other_files_of_the_directory_are_not_watched(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is written beside it first would have been told first."""
    monkeypatch.setattr(hostconfig, "SETTLE_S", 0.01)
    path = written(tmp_path, "")

    def beside() -> None:
        (tmp_path / "other").write_text("x")
        path.read_text()

    with pytest.raises(TimeoutError):
        asyncio.run(asyncio.wait_for(_seen(path, beside), 0.3))


async def _seen(path: Path, change: Callable[[], object]) -> None:
    seen = asyncio.Event()
    watching = asyncio.create_task(watch([path], seen.set))
    await asyncio.sleep(0)  # lets it begin: what happens before is not its to tell
    try:
        change()
        await seen.wait()
    finally:
        watching.cancel()
        await asyncio.gather(watching, return_exceptions=True)
