"""Where things lie on disk: the source tree, .kb, the migrations and the price files.

Only paths are worked out here, nothing is created or read. What lies in them is the business of
the module that reads it.
"""

import os
import sys
from pathlib import Path


def project_root() -> Path:
    """Return the directory that holds the package: the checkout, or site-packages once installed."""
    return Path(__file__).resolve().parents[2]


def kb_home(home: Path | None = None) -> Path:
    """Return the absolute directory of the project's own state; it may not exist yet.

    Args:
        home: Wins when given; else the environment's KB_HOME, else `.kb` in the working directory.
    """
    chosen = home or Path(os.environ.get("KB_HOME", "").strip() or ".kb")
    # Not resolved: a short symlink is the way around a path too long for a socket.
    return chosen.expanduser().absolute()


def postgres_directory(home: Path | None = None) -> Path:
    """Return the data directory of the embedded server; it may not exist yet."""
    return kb_home(home) / "postgres"


def migrations_directory() -> Path:
    """Return the directory of the .sql migrations: the checkout's, else the installed wheel's."""
    return shipped("migrations")


def shipped(name: str) -> Path:
    """Return a file or directory that comes with the package: the checkout's, else the installed wheel's."""
    return _in_checkout(name) or Path(sys.prefix) / "share" / "kb_pipeline" / name


def data_root() -> Path:
    """Return the directory of price files and symbols.yaml: KB_DATA_ROOT, else the project's `data`."""
    given = os.environ.get("KB_DATA_ROOT", "").strip()
    return Path(given).expanduser().absolute() if given else data_directory()


def symbols_file(root: Path | None = None) -> Path:
    """Return the file that gives each symbol its calendar, of a data root if given; it may not exist."""
    return (root or data_root()) / "symbols.yaml"


def data_directory() -> Path:
    """Return what comes with the project: the checkout's `data`, else that of the working directory."""
    return _in_checkout("data") or Path.cwd() / "data"


def _in_checkout(name: str) -> Path | None:
    # site-packages may hold another project's directory of the same name, but no pyproject.toml.
    root = project_root()
    return root / name if (root / "pyproject.toml").is_file() else None
