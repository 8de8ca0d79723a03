"""A chat template comes with a base, and may loop or grow without end: it is tried in a process of its own first."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any, Final

from hiplora.errors import HiploraError
from hiplora.paths import own_process

_SECONDS: Final = 5
"""Of the processor, for one conversation: an ordinary one takes a millisecond."""
_MEMORY: Final = 2**30
"""Beyond what the process has at its start."""
_LONGEST: Final = 10_000_000
"""Characters that a conversation may become."""
_WAIT: Final = 300


def require_harmless(path: Path, tokenizer: Any, messages: list[dict[str, Any]]) -> None:
    """Raise if the tokenizer's chat template takes too much time or memory for one conversation.

    Args:
        path: the file of the conversation, for the error.
        tokenizer: with a chat template.
        messages: the conversation.

    Raises:
        HiploraError: the template did not end within its limits.
    """
    job = {"template": tokenizer.get_chat_template(), "messages": messages, "tokens": tokenizer.special_tokens_map}
    command, environment = own_process("hiplora.training.data.templates")
    try:
        done = subprocess.run(
            command,
            env=environment,
            input=json.dumps(job, default=str),
            capture_output=True,
            text=True,
            timeout=_WAIT,
            check=False,
        )
        ended = done.returncode == 0
    except subprocess.TimeoutExpired:
        ended = False
    if not ended:
        raise HiploraError(
            f"{path}: the chat template of this base's tokenizer needs more than {_SECONDS} s or "
            f"{_MEMORY // 2**20} MB for one conversation: choose another base, or write prompts and completions."
        )


def _render(job: dict[str, Any]) -> None:
    """Render one conversation under limits; what does not fit the template is said later, by transformers itself."""
    from jinja2 import TemplateError
    from transformers.utils.chat_template_utils import render_jinja_template

    try:
        import resource
    except ImportError:
        pass
    else:
        used = resource.getrusage(resource.RUSAGE_SELF)
        seconds = int(used.ru_utime + used.ru_stime) + _SECONDS
        resource.setrlimit(resource.RLIMIT_CPU, (seconds, seconds))
        resource.setrlimit(resource.RLIMIT_DATA, (4 * _MEMORY, 4 * _MEMORY))
    try:
        rendered, _ = render_jinja_template(
            conversations=[job["messages"]], chat_template=job["template"], **job["tokens"]
        )
    except (TemplateError, TypeError, ValueError):
        return
    if sum(map(len, rendered)) > _LONGEST:
        sys.exit(1)


if __name__ == "__main__":
    _render(json.load(sys.stdin))
