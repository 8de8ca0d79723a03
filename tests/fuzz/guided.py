"""One campaign through atheris, guided by the coverage of `hiplora`: called by `python -m tests.fuzz`."""

import os
import random
import sys
import time

import atheris

with atheris.instrument_imports(include=["hiplora"]):
    from tests.fuzz.campaign import mutated, parsed, trial
    from tests.fuzz.targets import TARGETS


def main(name: str, inputs: int, seconds: float, seed: int, folder: str) -> None:
    """Try so many inputs, or for so long; those that reach new code are written to a folder."""

    def mutate(data: bytes, most: int, number: int) -> bytes:
        choose = random.Random(number)
        value = parsed(data)
        if value is None or choose.random() < 0.1:
            value = choose.choice(TARGETS[name][1])
        return mutated(value, choose)[:most]

    with trial(name) as (figures, attempt):

        def one(data: bytes) -> None:
            attempt(data)
            if figures.inputs == inputs or (seconds and time.perf_counter() > figures.start + seconds):
                print(figures, flush=True)
                # libFuzzer takes any other end from within for a fault.
                os._exit(0)

        options = [f"-seed={seed + 1}", "-max_len=8192", "-rss_limit_mb=0", f"-artifact_prefix={folder}/"]
        atheris.Setup([sys.argv[0], folder, *options], one, custom_mutator=mutate)
        atheris.Fuzz()


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), float(sys.argv[3]), int(sys.argv[4]), sys.argv[5])
