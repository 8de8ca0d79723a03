"""Watch a plain training loop in hiplora, in one process or several.

    hiplora app                                        # page Train, in another terminal
    accelerate launch examples/watch.py --run my-run   # or: python examples/watch.py --run my-run

It trains a LoRA on the demo base to write letters in upper case. The two calls of `SpectralRecorder` are all that your
own loop needs.
"""

import argparse
from pathlib import Path

import torch
from accelerate import Accelerator
from peft import LoraConfig, get_peft_model
from transformers import AutoModelForCausalLM, AutoTokenizer

import hiplora

BASE = Path(__file__).parents[1] / "assets" / "demo" / "base"


def main() -> None:
    """Train, and record."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--run", default="watched", help="name of the run (default: watched)")
    parser.add_argument("--steps", type=int, default=300, help="optimizer steps (default: 300)")
    args = parser.parse_args()

    accelerator = Accelerator()
    torch.manual_seed(0)
    model = get_peft_model(
        AutoModelForCausalLM.from_pretrained(BASE),
        LoraConfig(r=8, lora_alpha=16, target_modules="all-linear", task_type="CAUSAL_LM"),
    )
    optimizer = torch.optim.AdamW([each for each in model.parameters() if each.requires_grad], lr=2e-3)
    model, optimizer = accelerator.prepare(model, optimizer)
    tokenizer = AutoTokenizer.from_pretrained(BASE)
    # Each process draws letters of its own.
    letters = torch.Generator().manual_seed(accelerator.process_index)

    watch = hiplora.SpectralRecorder(model, steps=args.steps, run=args.run, every=10)
    for step in range(1, args.steps + 1):
        words = [[chr(97 + int(i)) for i in torch.randint(0, 26, (4,), generator=letters)] for _ in range(16)]
        texts = [f"upper: {' '.join(each)} = {' '.join(each).upper()}" for each in words]
        batch = tokenizer(texts, return_tensors="pt")["input_ids"].to(accelerator.device)
        loss = model(input_ids=batch, labels=batch).loss
        accelerator.backward(loss)
        optimizer.step()
        optimizer.zero_grad()
        watch.record(step, loss=loss, learning_rate=2e-3, tokens=step * batch.numel())
        if watch.stop_requested:
            break
    watch.close()
    accelerator.print(f"watching took {watch.cost:.1%} of the training time")


if __name__ == "__main__":
    main()
