"""Fetches what a project's suite needs: its sources, checked against their hash, and an environment of its own."""

import hashlib
import os
import shutil
import subprocess
import sys
import tarfile

from projects import HERE, ROOT, WORK

REPORT = HERE / "loops"

# On the path of every process of the environment: velodrome, as built in this clone, and what chooses the loop.
PTH = f"{ROOT / 'python'}\n{REPORT}\nimport choose_loop\n"


class Unavailable(Exception):
    """Something cannot be had on this machine."""


def run(command, **options):
    result = subprocess.run(command, capture_output=True, text=True, **options)
    if result.returncode:
        raise Unavailable(f"{' '.join(map(str, command))}\n{result.stdout}{result.stderr}".strip())
    return result.stdout


# ---- the environment --------------------------------------------------------------------------------------------


def environment_name(project):
    return f"ecosystem-{project.name}-{sys.version_info.major}.{sys.version_info.minor}"


def python_of(project):
    """The Python of the project's environment, which is made if need be, of the Python that runs this."""
    environment = os.environ | {"PYTHON": os.path.realpath(sys.executable)}
    command = [ROOT / "tools" / "venv.sh", environment_name(project), project.requirements]
    python = run(command, env=environment).strip()
    site = run([python, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))"]).strip()
    with open(os.path.join(site, "velodrome_ecosystem.pth"), "w") as file:
        file.write(PTH)
    return python


def lock(project):
    """Writes the versions that pip chooses now into the project's requirements file."""
    folder = WORK / "lock" / project.name
    shutil.rmtree(folder, ignore_errors=True)
    run([sys.executable, "-m", "venv", folder])
    python = folder / "bin" / "python"
    run([python, "-m", "pip", "install", "--quiet", f"{project.name}=={project.version}", *project.requires])
    frozen = run([python, "-m", "pip", "freeze"])
    project.requirements.write_text(f"# Written by tests/ecosystem/run.py --lock {project.name}\n{frozen}")
    shutil.rmtree(folder)


# ---- the sources ------------------------------------------------------------------------------------------------


def digest(path):
    return hashlib.sha256(path.read_bytes()).hexdigest()


def fetch_sdist(project, folder):
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--no-binary", project.name]
    run([*command, "--dest", folder, f"{project.name}=={project.version}"])


def fetch_from_debian(project, folder):
    """Has apt fetch the source package, with lists of its own: the machine's apt is left as it is."""
    package, suite = project.source.removeprefix("debian:").split("/")
    target = ["apt-get", "indextargets", "--no-release-info", "--format", "$(REPO_URI)", "Identifier: Packages"]
    if not shutil.which("apt-get") or not (archives := run(target).split()):
        raise Unavailable("this machine has no apt")
    apt = WORK / "apt"
    (apt / "lists" / "partial").mkdir(parents=True, exist_ok=True)
    (apt / "status").touch()
    (apt / "sources.list").write_text(f"deb-src {archives[0]} {suite} main\n")
    (apt / "apt.conf").write_text(
        f'Dir::Etc::SourceList "{apt}/sources.list"; Dir::Etc::SourceParts "/dev/null";\n'
        f'Dir::State "{apt}"; Dir::State::status "{apt}/status"; Dir::Cache "{apt}"; APT::Sandbox::User "";\n'
    )
    environment = os.environ | {"APT_CONFIG": str(apt / "apt.conf")}
    run(["apt-get", "update", "-qq"], env=environment)
    # The other files of the source package may be missing from a mirror, and nobody needs them.
    subprocess.run(
        ["apt-get", "source", "--download-only", package], cwd=folder, env=environment, capture_output=True, check=False
    )


def archive_of(project):
    """The archive with the project's sources: fetched once, checked each time."""
    folder = WORK / "archives" / f"{project.name}-{project.version}"
    folder.mkdir(parents=True, exist_ok=True)
    found = [path for path in folder.glob("*.tar.gz") if digest(path) == project.sha256]
    if not found:
        (fetch_sdist if project.source == "sdist" else fetch_from_debian)(project, folder)
        fetched = list(folder.glob("*.tar.gz"))
        found = [path for path in fetched if digest(path) == project.sha256]
        if fetched and not found:
            raise SystemExit(f"{fetched[0]}: sha256 is {digest(fetched[0])}, not {project.sha256}")
    if not found:
        raise Unavailable("its sources could not be fetched")
    return found[0]


def sources_of(project, loop):
    """Unpacks the sources anew, since tests write into them, and returns their folder."""
    folder = WORK / "sources" / f"{project.name}-{loop}"
    shutil.rmtree(folder, ignore_errors=True)
    with tarfile.open(archive_of(project)) as archive:
        archive.extractall(folder, filter="data")
    (sources,) = (path for path in folder.iterdir() if path.is_dir())
    for name in project.remove:
        shutil.rmtree(sources / name)
    return sources
