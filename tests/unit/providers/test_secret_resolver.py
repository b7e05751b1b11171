"""Secrets of the node, resolved from outside."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent_node.providers import SecretResolver
from agent_node.providers.secrets import SECRET_BYTES_MAX
from voxplane.errors import VoxplaneError

PATH = "llm_config.api_key"
VALUE = "not-to-be-shown-anywhere"


@pytest.fixture
def secrets(tmp_path: Path) -> Path:
    """A folder with one secret."""
    folder = tmp_path / "secrets"
    folder.mkdir()
    (folder / "key").write_text(f"{VALUE}\n")
    return folder


def resolver(folder: Path = Path("/nowhere"), **environ: str) -> SecretResolver:
    """A resolver that allows one folder."""
    return SecretResolver(allowed_dirs=(folder,), environ=environ)


def refused(resolver: SecretResolver, reference: str) -> str:
    """The text of the refusal, which names the path and never the secret."""
    with pytest.raises(VoxplaneError) as caught:
        resolver.resolve(reference, PATH)
    assert caught.value.reason_name == "SECRET_UNAVAILABLE"
    [violation] = caught.value.violations
    assert violation.field == PATH
    text = f"{caught.value} {violation.description} {caught.value.__cause__}"
    assert VALUE not in text
    return text


@pytest.mark.parametrize("name", ["OPENAI_API_KEY", "X_TOKEN", "MY_SECRET", "SOME_KEY"])
def test_a_variable_with_an_allowed_ending_is_resolved(name: str) -> None:
    """Names that end like a secret's are handed out."""
    assert resolver(**{name: VALUE}).resolve(f"env:{name}", PATH) == VALUE


@pytest.mark.parametrize("name", ["HOME", "DATABASE_URL", "LIVEKIT_API_SECRET", "VOXPLANE_ADMIN_TOKEN"])
def test_other_variables_are_refused(name: str) -> None:
    """Names that end otherwise, and the node's own, are not handed out."""
    assert name in refused(resolver(**{name: VALUE}), f"env:{name}")


def test_a_variable_may_be_allowed_by_name() -> None:
    """An operator can allow any single name."""
    allowed = SecretResolver(allowed_env_names=frozenset({"OPENAI"}), environ={"OPENAI": VALUE})
    assert allowed.resolve("env:OPENAI", PATH) == VALUE


def test_a_missing_variable_is_named() -> None:
    """The refusal says which variable to set."""
    assert "OPENAI_API_KEY is not set" in refused(resolver(), "env:OPENAI_API_KEY")


def test_a_file_in_an_allowed_folder_is_resolved(secrets: Path) -> None:
    """The newline at the end of a file is no part of the secret."""
    assert resolver(secrets).resolve(f"file:{secrets}/key", PATH) == VALUE


def test_links_inside_the_folder_are_followed(secrets: Path) -> None:
    """Kubernetes puts secrets behind links within the mounted folder."""
    (secrets / "data").mkdir()
    (secrets / "data" / "real").write_text(VALUE)
    (secrets / "linked").symlink_to(secrets / "data" / "real")
    assert resolver(secrets).resolve(f"file:{secrets}/linked", PATH) == VALUE


def test_nothing_outside_the_folder_is_read(secrets: Path, tmp_path: Path) -> None:
    """Neither a plain path, nor .., nor a link, nor a folder of a longer name leads out."""
    outside = tmp_path / "secrets-of-others"
    outside.mkdir()
    (outside / "key").write_text(VALUE)
    (secrets / "link").symlink_to(outside / "key")
    (secrets / "folder").symlink_to(outside)
    for name in ("../secrets-of-others/key", "link", "folder/key"):
        refused(resolver(secrets), f"file:{secrets}/{name}")
    refused(resolver(secrets), f"file:{outside}/key")
    refused(resolver(secrets), "file:secrets/key")


def test_a_file_outside_looks_like_a_missing_one(secrets: Path, tmp_path: Path) -> None:
    """A refusal does not tell what else is on the node."""
    (tmp_path / "there").write_text(VALUE)
    there, missing = f"{tmp_path}/there", f"{tmp_path}/missing"
    assert refused(resolver(secrets), f"file:{there}").replace(there, "") == refused(
        resolver(secrets), f"file:{missing}"
    ).replace(missing, "")


def test_only_regular_files_of_modest_size_are_read(secrets: Path) -> None:
    """Folders, pipes, empty, binary and huge files are refused at once."""
    os.mkfifo(secrets / "pipe")
    (secrets / "folder").mkdir()
    (secrets / "empty").write_text("\n")
    (secrets / "binary").write_bytes(b"\xff\xfe")
    (secrets / "huge").write_text("x" * (SECRET_BYTES_MAX + 1))
    for name in ("pipe", "folder", "empty", "binary", "huge", "missing"):
        refused(resolver(secrets), f"file:{secrets}/{name}")


@given(st.text())
def test_a_literal_is_refused_and_not_repeated(text: str) -> None:
    """What is no reference is refused in words that do not hold it."""
    literal = f"sk-{text}-{VALUE}"
    assert "is not a reference" in refused(resolver(), literal)
