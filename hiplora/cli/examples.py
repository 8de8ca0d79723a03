"""Examples in the help of each command."""

EXAMPLES = {
    "": (
        "hiplora app                                    see it in the browser",
        "hiplora analyze demo swap-lora swap-hiplora    measure two adapters of the demo",
        "hiplora analyze BASE ADAPTER --out table.csv   measure one of your own",
        "hiplora COMMAND --help                         options and examples of one command",
    ),
    "analyze": (
        "hiplora analyze demo swap-lora swap-hiplora",
        "hiplora analyze SmolLM2-135M-Instruct my-adapter --k 32 --out layers.csv",
        "hiplora analyze path/to/base run-1 run-2 --geometry inputs --text domain.txt",
    ),
    "report": (
        "hiplora report demo swap-lora swap-hiplora --out report.html",
        "hiplora report path/to/base my-adapter --geometry inputs --text domain.txt",
    ),
    "check": (
        "hiplora check demo swap-hiplora --max-tightness 1",
        "hiplora check path/to/base my-adapter --max-effect 0.2 --min retention=0.95 --sarif check.sarif",
        "hiplora check path/to/base run-1 run-2 --max relative_norm=0.1 --max adapter:enrichment=3 --junit check.xml",
    ),
    "ledger": ("hiplora ledger demo swap-hiplora rot-hiplora --epsilon 0.05",),
    "inspect": ("hiplora inspect my-adapter --base path/to/base", "hiplora inspect swap-lora --json"),
    "convert": (
        "hiplora convert adapter_model.bin",
        "hiplora convert my-style.safetensors --base sdxl/unet",
    ),
    "ablate": (
        "hiplora ablate swap-lora --base demo --by layer --size 40",
        "hiplora ablate my-adapter --base path/to/base --task-text task.txt --out ablation.csv",
    ),
    "edit": (
        "hiplora edit swap-lora --base demo --pp 0 --out without-principal",
        "hiplora edit my-adapter --base path/to/base --pp 0.5 --rank 8 --out softer",
    ),
    "repair": (
        "hiplora repair swap-lora --base demo --out repaired",
        "hiplora repair my-adapter --base path/to/base --task-text task.txt --out repaired",
    ),
    "merge": (
        "hiplora merge demo swap-lora rot-lora --how core --out merged",
        "hiplora merge path/to/base first second --weights 1 0.5 --save-model --out merged-model",
    ),
    "verify": ("hiplora verify path/to/base my-adapter path/to/merged-model",),
    "rebudget": ("hiplora rebudget swap-lora --base demo --epsilon 0.02 --out within",),
    "calibrate": ("hiplora calibrate path/to/base --text domain.txt --tokens 8192",),
    "svd": ("hiplora svd SmolLM2-135M-Instruct", "hiplora svd path/to/base --k 128"),
    "train": (
        "hiplora train --task swap --method hiplora --out my-run",
        "hiplora train --base path/to/base --data notes.jsonl --method lora",
        "hiplora train --resume my-run",
    ),
    "export-lora": ("hiplora export-lora swap-hiplora plain-lora",),
    "demo": ("hiplora demo build --out my-demo --seed 1",),
    "app": ("hiplora app", "hiplora app --port 8080 --server.headless true"),
    "mcp": ("hiplora mcp",),
    "cache": ("hiplora cache", "hiplora cache --clear"),
}
"""`{command: lines}`; those of the empty name are for `hiplora --help`."""
