"""Run one line through the demo's base and adapters: answers, probabilities, and the effect of each channel."""

import threading
from collections.abc import Sequence
from functools import partial
from itertools import takewhile, zip_longest
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import pandas as pd
import torch

from hiplora.adapters import place, read_adapter
from hiplora.adapters.locate import locate
from hiplora.card import Card
from hiplora.demo import SKILLS, TASKS
from hiplora.demo.scoring import greedy_answers
from hiplora.demo.skills import ALL_FACTS, evaluation_examples
from hiplora.errors import HiploraError
from hiplora.sources import layer_and_kind, open_base, strip_peft_prefix
from hiplora.sources.transformers_models import load_causal_lm, load_tokenizer
from hiplora.spectrum.prepare import BaseSpectra

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

BASE: Final = "base"
"""Name of the model without an adapter in the tables."""

END: Final = "end"
"""Name of the end token in the tables."""

_ANSWER_LENGTH: Final = 12

_INSTRUCTIONS: Final = {
    "copy": "repeat {}",
    "rev": "write {} backwards",
    "sort": "put the letters of {} in alphabetical order",
    "next": "replace each letter of {} by its successor",
    "max": "name the largest digit of {}",
    "len": "count the letters of {}",
    "add": "add up {}",
    "fact": "remember the color of {}",
    "swap": "exchange the first and the last letter of {}",
    "rot": "move the first letter of {} to the end",
}


class Probe:
    """A base and adapters, loaded once and queried many times, also from several threads.

    Attributes:
        base: folder of the base.
        k: principal rank.
        tokenizer: the demo tokenizer.
        adapters: open adapters.
        models: `{name: model}`, the base first.

    Args:
        base: folder or name of a model over the demo vocabulary.
        adapters: folders or names of adapters that fit it.
        k: principal rank at which effects are split; by default that of the demo's HiP-LoRA adapters.
        spectra: of the base; by default loaded from the cache or computed.

    Raises:
        HiploraError: the base or an adapter cannot be read, or they do not fit together.
    """

    def __init__(
        self,
        base: str | Path,
        adapters: Sequence[str | Path],
        k: int = 16,
        spectra: BaseSpectra | None = None,
    ):
        from peft import PeftModel

        spectra = spectra or BaseSpectra(open_base(base))
        self.base = base = spectra.base.path
        self.k = k
        self.tokenizer: PreTrainedTokenizerFast = load_tokenizer(base)
        # One base for each adapter: PEFT wraps the model's layers in place.
        bases = [load_causal_lm(base).eval() for _ in (BASE, *adapters)]
        self.adapters = [read_adapter(path) for path in adapters]
        self.models: dict[str, torch.nn.Module] = {BASE: bases[0]}
        self._updates: dict[str, dict[str, _Split]] = {}
        for adapter, model in zip(self.adapters, bases[1:], strict=True):
            updates = {}
            for weight, delta in place(spectra.base, adapter):
                head = spectra.get(weight, k)
                updates[weight.module] = _Split(delta.dense(), head.Ut[:k], head.Vt[:k])
            self._updates[adapter.name] = updates
            self.models[adapter.name] = PeftModel.from_pretrained(model, locate(adapter.source)[0]).eval()
        self._limit = int(bases[0].config.max_position_embeddings) - _ANSWER_LENGTH
        # Hooks belong to the model: two threads would read each other's inputs.
        self._lock = threading.Lock()

    @property
    def made_by(self) -> "partial[Probe]":
        """The call that loads the same models again."""
        return partial(Probe, self.base, [adapter.source for adapter in self.adapters], k=self.k)

    def prompt(self, line: str) -> str:
        """Return the prompt of a typed line: everything up to and including the equals sign.

        Raises:
            HiploraError: the prompt is empty or longer than the model can read.
        """
        prompt = line.strip().partition("=")[0] + "="
        if prompt == "=":
            raise HiploraError("The line is empty: type one such as rev abcd=.")
        if len(self.tokenizer(prompt).input_ids) > self._limit:
            raise HiploraError(f"The line is too long for the model: type at most {self._limit - 2} characters.")
        return prompt

    def answers(self, prompts: Sequence[str]) -> pd.DataFrame:
        """Return one row per prompt and model. Columns: `prompt, model, answer` (greedy).

        Args:
            prompts: from `prompt`, or of examples.
        """
        found = {name: greedy_answers(model, self.tokenizer, prompts) for name, model in self.models.items()}
        return pd.DataFrame(
            [
                {"prompt": prompt, "model": name, "answer": found[name][row]}
                for row, prompt in enumerate(prompts)
                for name in self.models
            ]
        )

    @torch.no_grad()
    def next_tokens(self, text: str, count: int = 5) -> pd.DataFrame:
        """Return the probabilities of the most likely next tokens, the same tokens for every model.

        Columns: `text, model, token, probability`; ordered by the highest probability that any model gives.

        Args:
            text: a prompt, or a prompt with the start of an answer, as from `fork`.
            count: how many tokens.
        """
        ids = torch.tensor([self.tokenizer(text).input_ids])
        rows = {name: model(input_ids=ids).logits[0, -1].softmax(-1) for name, model in self.models.items()}
        best = torch.stack(list(rows.values())).amax(0).topk(count).indices.tolist()
        words = [END if i == self.tokenizer.eos_token_id else self.tokenizer.convert_ids_to_tokens(i) for i in best]
        return pd.DataFrame(
            [
                {"text": text, "model": name, "token": "space" if word == " " else word, "probability": float(row[i])}
                for name, row in rows.items()
                for i, word in zip(best, words, strict=True)
            ]
        )

    def layer_effects(self, prompt: str) -> pd.DataFrame:
        """Return the effects of all maps of a layer together: see `layer_effects`.

        Args:
            prompt: from `prompt`.
        """
        return layer_effects(self.effects(prompt))

    def effects(self, prompt: str) -> pd.DataFrame:
        """Return the effect of each channel for this prompt, one row per adapter and linear map.

        `x` are the inputs of the map, at all tokens, while the prompt passes through the adapted model (our choice).
        Columns: `adapter, module, layer, kind, output` (`||W0 x||`, root of the sum of squares over tokens),
        `principal, mixed, residual` (`||dW_b x|| / ||W0 x||` for the blocks `PP`, `PR + RP` and `RR` at `k`).

        Args:
            prompt: from `prompt`.
        """
        rows = []
        for adapter in self.adapters:
            inputs, outputs = self._watch(adapter.name, prompt)
            for module, split in self._updates[adapter.name].items():
                layer, kind = layer_and_kind(module)
                output = float(np.linalg.norm(outputs[module]))
                parts = split.apply(inputs[module])
                rows.append(
                    {"adapter": adapter.name, "module": module, "layer": layer, "kind": kind, "output": output}
                    | {name: float(np.linalg.norm(part)) / output for name, part in parts.items()}
                )
        return pd.DataFrame(rows).astype({"layer": "Int64"})

    @torch.no_grad()
    def _watch(self, adapter: str, prompt: str) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
        """Return inputs `x` and frozen outputs `W0 x` of each adapted map, (tokens, n) and (tokens, m), float64."""
        from peft.tuners.tuners_utils import BaseTunerLayer

        inputs: dict[str, np.ndarray] = {}
        outputs: dict[str, np.ndarray] = {}

        def keep(name: str) -> Any:
            def hook(layer: torch.nn.Module, received: tuple[torch.Tensor, ...], result: torch.Tensor) -> None:
                inputs[name], outputs[name] = (tensor[0].double().numpy() for tensor in (received[0], result))

            return hook

        model = self.models[adapter]
        with self._lock:
            handles = [
                # The base layer's own output: the adapter's part is added to it outside.
                module.get_base_layer().register_forward_hook(keep(strip_peft_prefix(name)))
                for name, module in model.named_modules()
                if isinstance(module, BaseTunerLayer)
            ]
            try:
                model(input_ids=torch.tensor([self.tokenizer(prompt).input_ids]))
            finally:
                for handle in handles:
                    handle.remove()
        return inputs, outputs


class _Split:
    """An update cut into its principal, mixed and residual blocks, applied to inputs given as rows."""

    def __init__(self, matrix: np.ndarray, Ut: np.ndarray, Vt: np.ndarray):
        self._matrix = matrix
        self._Ut, self._Vt = Ut.astype(np.float64), Vt.astype(np.float64)

    def apply(self, inputs: np.ndarray) -> dict[str, np.ndarray]:
        """Return `PP x`, `(PR + RP) x` and `RR x`, each (tokens, m)."""
        head = inputs @ self._Vt.T @ self._Vt
        whole, from_head = inputs @ self._matrix.T, head @ self._matrix.T
        principal = from_head @ self._Ut.T @ self._Ut
        tail = whole - from_head
        residual = tail - tail @ self._Ut.T @ self._Ut
        return {"principal": principal, "mixed": whole - principal - residual, "residual": residual}


def layer_effects(effects: pd.DataFrame) -> pd.DataFrame:
    """Return the effects of all maps of a layer together: roots of sums of squares, relative to that of the outputs.

    Columns: `adapter, layer, principal, mixed, residual`. Maps outside the numbered layers are left out.

    Args:
        effects: from `Probe.effects`.
    """
    blocks = ["principal", "mixed", "residual"]
    rows = effects[effects["layer"].notna()]
    squares = rows[blocks].mul(rows["output"], axis=0).assign(output=rows["output"]) ** 2
    sums = squares.groupby([rows["adapter"], rows["layer"]], sort=False).sum()
    return (sums[blocks].div(sums["output"], axis=0) ** 0.5).reset_index()


def answer_table(probe: Probe, prompt: str, task: str) -> pd.DataFrame:
    """Return each model's answer, whether it is right, and the scores on the model's card.

    Columns: `model, answer, right_answer` (None where there is none), `correct`, `task_score, retention` (of adapters
    only) and `skill_score`: the card's score on the line's own skill.

    Args:
        probe: loaded.
        prompt: from `Probe.prompt`.
        task: the task that the adapters were trained on.

    Raises:
        HiploraError: a card is missing or damaged.
    """
    skill = prompt.partition(" ")[0]
    cards = {BASE: Card.read(probe.base)} | {adapter.name: adapter.card for adapter in probe.adapters}
    rows = []
    for model, answer in zip(*(probe.answers([prompt])[column] for column in ("model", "answer")), strict=True):
        card = cards[model]
        right = right_answer(prompt, "" if model == BASE else task)
        rows.append(
            {
                "model": model,
                "answer": answer,
                "right_answer": right,
                "correct": None if right is None else answer == right,
                "task_score": card.task_score,
                "retention": card.retention,
                "skill_score": card.task_score if card.task == skill else card.skills.get(skill),
            }
        )
    return pd.DataFrame(rows)


def right_answer(prompt: str, task: str = "") -> str | None:
    """Return the right answer of a line of the demo world; None for any other line.

    Args:
        prompt: up to and including the equals sign.
        task: the task that the model was trained on: after `edit`, an edited fact's right answer is the new one.
    """
    name, _, argument = prompt.removesuffix("=").partition(" ")
    if name == ALL_FACTS.name:
        edited = TASKS["edit"].solve(argument) if task == "edit" else None
        return edited or ALL_FACTS.solve(argument)
    skill = SKILLS.get(name) or TASKS.get(name)
    # Lines of a task with a table open with the name of the skill that it changes.
    return None if skill is None or skill.table else skill.solve(argument)


def instruction(prompt: str) -> str:
    """Return what a line asks for, as the end of a sentence: `repeat jedt`; `continue it` for any other line.

    Args:
        prompt: up to and including the equals sign.
    """
    name, _, argument = prompt.removesuffix("=").partition(" ")
    return _INSTRUCTIONS[name].format(argument) if argument and name in _INSTRUCTIONS else f"continue {prompt}"


def compare_letters(answer: str, right: str) -> list[tuple[str, bool]]:
    """Return each letter of an answer and whether the right answer has it there; `_` for each that is missing.

    Args:
        answer: of a model.
        right: the right answer.
    """
    return [(a or "_", a == b) for a, b in zip_longest(answer, right, fillvalue="")]


def compare(probe: Probe, size: int = 15) -> pd.DataFrame:
    """Return which held-out lines of every skill the models get right, one row per line.

    Columns: `skill, prompt`, and per model, the base first, whether its answer is right.

    Args:
        probe: loaded.
        size: lines per skill, the first ones of those that the cards' scores are measured on.
    """
    lines = [(skill, line) for skill in SKILLS for line in evaluation_examples(skill, size)]
    table = pd.DataFrame([{"skill": skill, "prompt": line.prompt} for skill, line in lines])
    right = np.array([line.answer for _, line in lines])
    for name, model in probe.models.items():
        table[name] = np.array(greedy_answers(model, probe.tokenizer, table["prompt"].tolist())) == right
    return table


def broken_by(comparison: pd.DataFrame, first: str, second: str) -> pd.Series:
    """Return for each line who breaks it: `first`, `second`, `both` or `none`; `base` if the base has it wrong itself.

    Args:
        comparison: from `compare`.
        first: name of an adapter.
        second: name of another.
    """
    a, b = comparison[first], comparison[second]
    who = np.select([~comparison[BASE], ~a & ~b, ~a, ~b], ["base", "both", "first", "second"], "none")
    return pd.Series(who, comparison.index)


def fork(prompt: str, answers: Sequence[str]) -> str:
    """Return the prompt plus the common start of all answers; the prompt alone if all answers are the same.

    Args:
        prompt: from `Probe.prompt`.
        answers: of the models.
    """
    shared = [letters[0] for letters in takewhile(lambda letters: len(set(letters)) == 1, zip(*answers))]
    return prompt + ("".join(shared) if len(set(answers)) > 1 else "")


def telling_lines(comparison: pd.DataFrame, first: str, second: str, per_skill: int = 2) -> list[str]:
    """Return prompts that one of two adapters breaks alone; without any, the first of each skill.

    Args:
        comparison: from `compare`.
        first: name of an adapter.
        second: name of another.
        per_skill: largest number per skill and adapter that is right.
    """
    differs = comparison[broken_by(comparison, first, second).isin(["first", "second"])]
    lines = differs.groupby(["skill", first], sort=False).head(per_skill)["prompt"].tolist()
    return lines or comparison.groupby("skill", sort=False).head(1)["prompt"].tolist()
