import pytest
from peft import LoraConfig

from hiplora.adapters import read_adapter
from hiplora.errors import HiploraError
from hiplora.measures.adapters import adapter_table


def test_an_update_that_depends_on_its_base_is_said_to_need_it(llama_base, make_adapter, tmp_path):
    make_adapter(llama_base, tmp_path / "dora", LoraConfig(r=2, target_modules=["q_proj"], use_dora=True))
    with pytest.raises(HiploraError, match="dora is a DoRA, whose update depends on the base's weights: open it on"):
        adapter_table(read_adapter(tmp_path / "dora"))
