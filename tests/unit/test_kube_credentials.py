"""Kubeconfigs as people have them."""

from __future__ import annotations

import asyncio
import json
import stat
from pathlib import Path
from typing import Any

import pytest
import yaml

from hostagent.edges.kube.clock import boottime
from hostagent.edges.kube.credentials import load, read
from hostagent.model.errors import ConfigError, EdgeError


def a_kubeconfig(folder: Path, *, user: dict[str, Any], **cluster: Any) -> Path:
    path = folder / "kubeconfig"
    config = {
        "apiVersion": "v1",
        "kind": "Config",
        "current-context": "c",
        "contexts": [{"name": "c", "context": {"cluster": "k", "user": "u"}}],
        "clusters": [{"name": "k", "cluster": {"server": "http://198.51.100.1:8080/", **cluster}}],
        "users": [{"name": "u", "user": user}],
    }
    path.write_text(yaml.safe_dump(config))
    return path


def a_plugin(folder: Path, script: str) -> dict[str, Any]:
    program = folder / "plugin"
    program.write_text(f"#!/bin/sh\n{script}\n")
    program.chmod(program.stat().st_mode | stat.S_IXUSR)
    return {"exec": {"apiVersion": "client.authentication.k8s.io/v1", "command": str(program)}}


def test_a_token_and_further_endpoints(tmp_path: Path) -> None:
    path = a_kubeconfig(tmp_path, user={"token": "secret"})
    creds = read(path, servers=["http://198.51.100.2:8080", "http://198.51.100.1:8080"])
    assert creds.servers == ("http://198.51.100.1:8080", "http://198.51.100.2:8080")
    assert creds.authorization == "Bearer secret"
    assert creds.files == (path,)
    assert "secret" not in repr(creds)


def test_a_token_file_is_watched(tmp_path: Path) -> None:
    (tmp_path / "token").write_text("from-file")
    path = a_kubeconfig(tmp_path, user={"tokenFile": "token"})
    creds = read(path)
    assert creds.authorization == "Bearer from-file"
    assert creds.files == (path, tmp_path / "token")


def test_a_plugin_s_token_and_its_expiry(tmp_path: Path) -> None:
    reply = {
        "apiVersion": "client.authentication.k8s.io/v1",
        "kind": "ExecCredential",
        "status": {"token": "minted", "expirationTimestamp": "2099-01-01T00:00:00Z"},
    }
    path = a_kubeconfig(tmp_path, user=a_plugin(tmp_path, f"echo '{json.dumps(reply)}'"))
    creds = asyncio.run(load(path))
    assert creds.authorization == "Bearer minted"
    assert creds.expires_at is not None
    assert creds.expires_at > boottime() + 86_400


def test_a_plugin_that_fails_is_named(tmp_path: Path) -> None:
    path = a_kubeconfig(tmp_path, user=a_plugin(tmp_path, "exit 3"))
    with pytest.raises(EdgeError, match="plugin' gave no credentials: run it by hand"):
        asyncio.run(load(path))


def test_a_plugin_that_hangs_is_given_up(tmp_path: Path) -> None:
    path = a_kubeconfig(tmp_path, user=a_plugin(tmp_path, "exec sleep 3"))
    with pytest.raises(EdgeError, match="not done after"):
        asyncio.run(load(path, timeout_s=1.0))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "empty"),
        ("a: [", "not YAML"),
        ("just words", "not a kubeconfig"),
        ("kind: Config", "current-context|Expected key|not a kubeconfig"),
        ("- 1", "not a kubeconfig"),
    ],
)
def test_a_file_that_is_no_kubeconfig_is_named(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "kubeconfig"
    path.write_text(text)
    with pytest.raises(ConfigError, match=message) as caught:
        read(path)
    assert str(path) in str(caught.value)


def test_a_missing_file_says_who_puts_it_there(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"no such file.*hostagent_access"):
        read(tmp_path / "kubeconfig")


def test_a_missing_certificate_is_named(tmp_path: Path) -> None:
    path = a_kubeconfig(
        tmp_path, user={"client-certificate": "gone.crt", "client-key": "gone.key"}, server="https://198.51.100.1"
    )
    with pytest.raises(ConfigError, match=r"gone\.crt"):
        read(path)


def test_what_is_no_certificate_is_refused_with_a_remedy(tmp_path: Path) -> None:
    for name in ("a.crt", "a.key"):
        (tmp_path / name).write_text("nonsense")
    path = a_kubeconfig(
        tmp_path, user={"client-certificate": "a.crt", "client-key": "a.key"}, server="https://198.51.100.1"
    )
    with pytest.raises(ConfigError, match="hostagent access sign"):
        read(path)


def test_a_kubeconfig_without_a_user_is_anonymous(tmp_path: Path) -> None:
    path = a_kubeconfig(tmp_path, user={})
    assert read(path).authorization is None


def test_nothing_of_a_key_is_left_on_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "tmp"))
    (tmp_path / "tmp").mkdir()
    path = a_kubeconfig(
        tmp_path,
        user={"client-certificate-data": "bm9uc2Vuc2U=", "client-key-data": "bm9uc2Vuc2U="},
        server="https://198.51.100.1",
    )
    with pytest.raises(ConfigError):
        read(path)
    assert list((tmp_path / "tmp").iterdir()) == []
