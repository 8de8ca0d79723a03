"""`import hiplora` registers the method with PEFT: each test in a process of its own, since imports happen once."""

import json
import os
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest
import torch
from peft import get_peft_model

from hiplora.tuner import HipLoraConfig

REPOSITORY = Path(__file__).parents[2]


def run(code, *arguments, path=(), options=()):
    """Run a script in a fresh process and return what it printed."""
    environment = os.environ | {
        "PYTHONPATH": os.pathsep.join(map(str, [*path, REPOSITORY])),
        # One thread, as here: another number of threads may add in another order.
        "OMP_NUM_THREADS": "1",
    }
    done = subprocess.run(
        [sys.executable, *options, "-c", textwrap.dedent(code), *map(str, arguments)],
        capture_output=True, text=True, check=False, env=environment,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_import_loads_nothing_heavy():
    heavy = {"torch", "transformers", "peft", "numpy", "accelerate", "safetensors", "importlib.abc"}
    assert run(f"import sys, hiplora; print(sorted({heavy!r} & set(sys.modules)))").strip() == "[]"


@pytest.fixture(scope="module")
def saved(llama_base, tmp_path_factory):
    """An adapter with a random update, tokens, and the logits of the adapted model, as paths."""
    from transformers import AutoModelForCausalLM

    folder = tmp_path_factory.mktemp("registration")
    config = HipLoraConfig(r=2, principal_rank=4, target_modules=["q_proj", "down_proj"], init_weights=False,
                           task_type="CAUSAL_LM")  # fmt: skip
    torch.manual_seed(0)
    model = get_peft_model(AutoModelForCausalLM.from_pretrained(llama_base), config).eval()
    tokens = torch.randint(0, 40, (2, 8))
    with torch.no_grad():
        torch.save((tokens, model(input_ids=tokens).logits), folder / "wanted.pt")
    model.save_pretrained(folder / "adapter")
    return llama_base, folder / "adapter", folder / "wanted.pt"


LOAD = """
base, adapter, wanted = sys.argv[1:]
tokens, want = torch.load(wanted)
fresh = AutoModelForCausalLM.from_pretrained(base)
fresh.load_adapter(adapter)
models = {
    "PeftModel": PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(base), adapter),
    "AutoPeftModel": AutoPeftModelForCausalLM.from_pretrained(adapter),
    "load_adapter": fresh,
    "AutoModel": AutoModelForCausalLM.from_pretrained(adapter),
}
with torch.no_grad():
    print([name for name, model in models.items() if not torch.equal(model.eval()(input_ids=tokens).logits, want)])
"""
IMPORTS = {
    "first": "import hiplora, sys, torch\nfrom peft import AutoPeftModelForCausalLM, PeftModel\n"
    "from transformers import AutoModelForCausalLM",
    "last": "import sys, torch\nfrom transformers import AutoModelForCausalLM\n"
    "from peft import AutoPeftModelForCausalLM, PeftModel\nimport hiplora",
}


@pytest.mark.parametrize("order", IMPORTS)
def test_a_saved_adapter_loads_every_way_with_the_import_in_any_place(saved, order):
    assert run(IMPORTS[order] + LOAD, *saved).strip() == "[]"


def test_who_looks_for_peft_finds_what_is_there_and_imports_nothing():
    code = """
    import copy, importlib, importlib.util, json, pickle, sys
    plain = importlib.util.find_spec("peft")
    import hiplora
    from transformers.utils import is_peft_available
    spec = importlib.util.find_spec("peft")
    found = [spec, copy.deepcopy(spec), pickle.loads(pickle.dumps(spec))]
    probed = is_peft_available() and "peft" not in sys.modules
    import peft
    importlib.reload(peft)
    config = pickle.loads(pickle.dumps(hiplora.HipLoraConfig(r=3)))
    print(json.dumps({
        "probed": probed,
        "same place": all((spec.origin, spec.submodule_search_locations, spec.loader.get_filename("peft"))
                          == (plain.origin, plain.submodule_search_locations, plain.origin) for spec in found),
        "own loader": type(peft.__spec__.loader) is type(peft.__loader__) is type(plain.loader),
        "registered": peft.PEFT_TYPE_TO_CONFIG_MAPPING["HIPLORA"] is type(config) is hiplora.HipLoraConfig,
        "one finder": sum(getattr(finder, "__module__", "") == "hiplora.registration" for finder in sys.meta_path),
    }))
    """
    assert json.loads(run(code)) == {
        "probed": True, "same place": True, "own loader": True, "registered": True, "one finder": 1,
    }  # fmt: skip


def test_without_peft_there_is_nothing_to_register():
    code = """
    import importlib.util, sys
    import hiplora
    try:
        import peft
    except ModuleNotFoundError as error:
        print(importlib.util.find_spec("peft"), error)
    """
    # Without the environment's own packages.
    code = f"import sys; sys.path.insert(0, {str(REPOSITORY)!r})" + textwrap.dedent(code)
    assert run(code, options=["-I", "-S"]).strip() == "None No module named 'peft'"


@pytest.fixture
def stand_in(tmp_path):
    """Return `stand_in(peft, tuner) -> folder`: a `peft` whose import can fail or wait, and a `hiplora.tuner` for it.

    The real ones take seconds, and always work.
    """

    def write(peft, tuner="import peft; peft.TABLE.append('HIPLORA')"):
        for name, code in (("peft", peft), ("tuner", tuner)):
            (tmp_path / name).mkdir()
            (tmp_path / name / "__init__.py").write_text(textwrap.dedent(code))
        return tmp_path

    return write


USE_STAND_IN = "import hiplora, sys; hiplora.__path__.insert(0, sys.argv[1])\n"


def test_an_import_of_peft_that_failed_is_made_good_by_the_next(stand_in):
    folder = stand_in("""
        import sys
        TABLE = []
        if not hasattr(sys, "tried"):
            sys.tried = True
            raise ImportError("no CUDA here")
    """)
    code = """
    try:
        import peft
    except ImportError as error:
        print(error, "peft" in sys.modules, "hiplora.tuner" in sys.modules)
    import peft
    print(peft.TABLE)
    """
    assert run(USE_STAND_IN + textwrap.dedent(code), folder, path=[folder]).splitlines() == [
        "no CUDA here False False",
        "['HIPLORA']",
    ]


def test_peft_imports_where_the_method_cannot_be_registered(stand_in):
    folder = stand_in("TABLE = []", tuner="from peft import something_newer")
    code = """
    import warnings
    with warnings.catch_warnings(record=True) as said:
        import peft
    print(peft.TABLE, *(warning.message for warning in said))
    """
    assert run(USE_STAND_IN + textwrap.dedent(code), folder, path=[folder]).startswith(
        "[] HiP-LoRA could not be registered with PEFT (ImportError: cannot import name 'something_newer'"
    )


def test_an_import_from_inside_peft_registers_at_the_first_use(stand_in):
    folder = stand_in("import hiplora, sys; hiplora.__path__.insert(0, sys.argv[1]); TABLE = []")
    code = "import sys, peft; print('hiplora.tuner' in sys.modules, peft.TABLE, type(peft))"
    assert run(code, folder, path=[folder]).strip() == "False ['HIPLORA'] <class 'module'>"


def test_an_import_beside_that_of_peft_in_another_thread_does_not_wait_for_it(stand_in):
    folder = stand_in("import sys; sys.begun.set(); sys.go_on.wait(); TABLE = []")
    code = """
    import sys, threading
    sys.begun, sys.go_on = threading.Event(), threading.Event()
    thread = threading.Thread(target=__import__, args=["peft"])
    thread.start()
    sys.begun.wait()
    import hiplora
    hiplora.__path__.insert(0, sys.argv[1])
    sys.go_on.set()
    thread.join()
    import peft
    print(peft.TABLE)
    """
    assert run(code, folder, path=[folder]).strip() == "['HIPLORA']"


def test_peft_and_the_method_may_be_imported_by_two_threads_at_once(stand_in):
    """One holds PEFT and would want the method, the other holds the method and wants PEFT."""
    folder = stand_in(
        "import sys; sys.peft_begun.set(); sys.tuner_begun.wait(); TABLE = []",
        tuner="import sys; sys.tuner_begun.set(); sys.peft_begun.wait(); import peft; peft.TABLE.append('HIPLORA')",
    )
    code = """
    import threading, warnings
    warnings.showwarning = lambda message, *_, **__: print(message)
    sys.peft_begun, sys.tuner_begun = threading.Event(), threading.Event()
    threads = [threading.Thread(target=__import__, args=[name]) for name in ("peft", "hiplora.tuner")]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    import peft
    print(peft.TABLE)
    """
    assert run(USE_STAND_IN + textwrap.dedent(code), folder, path=[folder]).strip() == "['HIPLORA']"


def test_importing_again_puts_no_second_finder_there():
    code = """
    import importlib, sys, hiplora
    importlib.reload(hiplora)
    print(sum(getattr(finder, "__module__", "") == "hiplora.registration" for finder in sys.meta_path))
    """
    assert run(code).strip() == "1"
