"""Sends a folder for the hub to the hub: only when asked, private unless said otherwise, by the hub's own client."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from minisheep.errors import ExportError, UsageError
from minisheep.export.cards import folders
from minisheep.models.entries import REPO
from minisheep.models.hub import said_offline

TOKEN = "HF_TOKEN"  # noqa: S105


def check(repo: str, target: str) -> str:
    """The token of the environment. Raises `errors.UsageError` before anything is made where a push cannot go."""
    if target != "hub-folder":
        raise UsageError(f"--push goes with --to hub-folder, not {target}.", "Nothing was exported.")
    if REPO.fullmatch(repo) is None:
        raise UsageError(f"--push {repo[:80]!r} is no OWNER/NAME.", "Nothing was exported.")
    if said_offline():
        raise UsageError("--push needs the network, and HF_HUB_OFFLINE says that there is none.", "Unset it.")
    token = os.environ.get(TOKEN, "").strip()
    if not token:
        raise UsageError(
            f"--push needs a token of yours in the environment variable {TOKEN}.", "Nothing was exported or sent."
        )
    return token


def push(made: Path, repo: str, token: str, *, public: bool) -> list[str]:
    """Upload the model to `repo` and its data to ``repo-data``; their addresses.

    A repository that exists keeps its visibility. Raises `errors.ExportError`; the export itself stays where it is.
    """
    import huggingface_hub
    from huggingface_hub.errors import HfHubHTTPError

    client: Any = huggingface_hub.HfApi(token=token)
    model, dataset = folders(made)
    addresses = []
    try:
        for folder, name, kind in ((dataset, f"{repo}-data", "dataset"), (model, repo, "model")):
            client.create_repo(name, private=not public, repo_type=kind, exist_ok=True)
            told = client.upload_folder(
                repo_id=name, folder_path=folder, repo_type=kind, commit_message="Export of minisheep"
            )
            addresses.append(str(told))
    except (HfHubHTTPError, OSError, ValueError) as error:
        # The client's messages hold addresses, never the token.
        reason = " ".join(str(error).split())[:300]
        raise ExportError(
            f"The hub did not take {repo}: {reason}. The export is whole in {made}.",
            f"Mend that, and upload it with `hf upload {repo} {model}`.",
        ) from None
    return addresses
