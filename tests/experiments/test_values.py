"""Invalid values of the options of every experiment, parsed in this process: each gets one clear line."""

import importlib.util
import signal
import sys
from pathlib import Path

import pytest

from foveate import cli
from foveate.core.quiet import quiet

ROOT = Path(__file__).parents[2]
NUL, LONG = "a\0b", "x" * 5000
COMMON = [
    (("--limit", "-5"), "limit=-5: expected at least 1 question"),
    (("--limit", "1e400"), "--limit"),
    (("--seed", "-1"), "seed=-1: expected 0 or more"),
    (("--batch-size", "0"), "batch_size=0: expected 1 or more"),
    (("--max-new-tokens", "0"), "max_new_tokens=0: expected 1 or more"),
    (("--device", ""), "device '' is unknown"),
    (("--device", "nonsense"), "device 'nonsense' is unknown"),
    (("--device", "meta"), "device 'meta' cannot be used"),
    (("--dtype", "float64"), "--dtype"),
    (("--devices", "0"), "workers=0"),
    (("--nodes", "2"), "--nodes"),
    (("--workers", "0"), "workers=0: at least one is needed"),
    (("--storage", ""), "storage '': expected the URL of a database"),
    (("--logger", "nothing"), "--logger"),
    (("--study", ""), "study '': it names a folder"),
    (("--study", "../elsewhere"), "study '../elsewhere': it names a folder"),
    (("--study", "."), "study '.'"),
    (("--study", LONG), "expected up to 100 letters"),
    (("--study", NUL), "it names a folder"),
    (("--out", NUL), "expected the name of a folder"),
    (("--out", "file"), "file"),
    (("--on-error", "maybe"), "--on-error"),
    (("--data", ""), "data '' is unknown; known: scenes"),
    (("--data", "scenes:x"), "scenes are generated, not read"),
    (("--data", "pope:/no/such"), "there is no file or folder /no/such"),
    (("--data", "pope:" + LONG), "is not a valid path"),
    (("--data", "pope:a/b/c"), "there is no file or folder a/b/c"),
    (("--split", "nope"), "split 'nope' of 'scenes' is unknown"),
    (("--model", ""), "model ''"),
    (("--model", NUL), "neither 'reference', nor a checkpoint folder"),
    (("--model", LONG), "neither 'reference', nor a checkpoint folder"),
    (("--nonsense", "1"), "nonsense"),
]
OWN = {
    "ablate_layers": [
        *((("--keep", keep), "keep=") for keep in ("nan", "inf", "-1", "1.5", "99999999999999999999")),
        (("--keep", "0"), "keep=0: a count is 1 or more"),
        (("--keep",), "no budget is given"),
        (("--keep", "x"), "--keep"),
        (("--layers", "-99"), "layer -99: this tower has 8 layers"),
        (("--layers", "99999999999999999999"), "this tower has 8 layers"),
    ],
    "ablate_budgets": [
        *((("--scorers", name), 'is unknown; write "cls[2]"') for name in ("", "cls", "cls[x]", "__import__('os')")),
        (("--scorers", "cls[99]"), "layer 99"),
        (("--keep", "nan"), "keep=nan"),
    ],
    "compare_methods": [
        (("--methods", "fastvee"), "method 'fastvee' is unknown; did you mean fastv"),
        (("--methods", ""), "method '' is unknown"),
        (("--methods", "os:"), "method 'os:' is unknown"),
        (("--methods", ":f"), "method ':f' is unknown"),
        (("--methods", "..:x"), "method '..:x' cannot be imported"),
        (("--methods", "a b:c"), "method 'a b:c' cannot be imported"),
        (("--methods", "os:path"), "which takes no keep"),
        (("--methods", "os:getcwd"), "which takes no keep"),
        (("--methods", "json:loads"), "which takes no keep"),
        (("--methods", "fastv+nothing"), "'nothing' is unknown"),
        (("--keep", "inf"), "keep=inf"),
    ],
    "recommend": [
        *((("--max-loss", loss), "max_loss=") for loss in ("0", "-1", "100", "nan")),
        (("--confidence", "1"), "confidence=1.0: expected a share from 0.5 to below 1"),
        (("--race-share", "0"), "race_share=0.0"),
        (("--methods", "fastvee"), "method 'fastvee' is unknown; did you mean fastv"),
        (("--methods", "none.json"), "there is no file 'none.json'; expected the path of a recipe file"),
        (("--layers", "cls[x]"), 'is unknown; write "cls[2]"'),
        (("--keep", "1.0"), "every budget is all of 144 patches"),
        (("--keep", "nan"), "keep=nan"),
        (("--batch", "0"), "batch=0: expected 1 or more"),
    ],
    "answer_benchmark": [
        (("--method", "builtins:print"), "which takes no keep"),
        (("--keep", "nan"), "keep=nan"),
        (("--keep", "0"), "keep=0"),
        (("--method", "fastv", "--keep", "99999"), "keep=99999"),
        (("--workers", "0"), "workers=0"),
        (("--storage", "sqlite:///x"), "leave --storage out"),
    ],
    "measure_bias": [
        (("--blocks", "0"), "blocks=0: expected at least 1"),
        (("--side", "-1"), "side=-1"),
        (("--side", "99"), "side=99: expected 1..12 patches on this grid of 12 x 12"),
        (("--keep", "0"), "keep=0: a count is 1 or more"),
        (("--orders", "0"), "orders=0: expected at least 1 random order"),
        (("--tokens", "0"), "tokens=0: expected at least 1 token"),
        (("--mean-split", "test"), "mean_split='test' is the split that is evaluated"),
        (("--shares", "1.5"), "keep=1.5: a fraction lies in (0, 1]"),
        (("--shares", "nan"), "keep=nan"),
        (("--shares",), "at least one share"),
        (("--storage", "sqlite:///x"), "leave --storage out"),
    ],
    "measure_speed": [
        (("--batch", "0"), "--batch 0: expected one or more numbers from 1 up"),
        (("--rounds", "0"), "rounds=0: expected at least 2 tokens"),
        (("--new-tokens", "1"), "new_tokens=1, rounds=20: expected at least 2 tokens"),
        (("--size", "48"), "size 48: LlavaForConditionalGeneration resizes every image to 96 x 96 pixels"),
        (("--keep", "nan"), "keep=nan"),
        (("--methods", "nope"), "method 'nope' is unknown"),
        (("--attention", "fast"), "attention 'fast' is unknown; known: "),
        (("--device", "cuda:77"), "device 'cuda:77' cannot be used"),
        (("--out", "/dev/null"), "/dev/null/measure_speed cannot be written: Not a directory; choose another --out"),
    ],
    "search_weights": [
        (("--space", "nope"), "nope"),
        (("--space", "vispruner", "--open", "important_ratio=0.9:0.1"), "low must be below high"),
        (("--space", "vispruner", "--open", "x"), "option 'x' of vispruner is unknown"),
        (("--goals", "nope"), "--goals"),
        (("--goals",), "expected one goal, or several"),
        (("--keep", "nan"), "keep=nan"),
        (("--report-split", "search"), "the split that is searched"),
    ],
    "reproduce_vtc_cls": [
        (("--data", "scenes"), "not in the paper"),
        (("--keep", "x"), "--keep"),
        (("--storage", "sqlite:///x"), "leave --storage out"),
    ],
}
CASES = [
    *(("ablate_layers", *case) for case in COMMON),
    *((name, *case) for name, cases in OWN.items() for case in cases),
]


@pytest.fixture(autouse=True)
def quietly_undone(monkeypatch):
    """Restores the levels of loggers, the filters of warnings and the handler of Ctrl-C that `run` sets."""
    monkeypatch.setattr(sys, "unraisablehook", sys.unraisablehook)
    handler = signal.getsignal(signal.SIGINT)
    with quiet():
        yield
    signal.signal(signal.SIGINT, handler)


def main_of(name):
    if name not in sys.modules:
        spec = importlib.util.spec_from_file_location(name, ROOT / "experiments" / f"{name}.py")
        sys.modules[name] = module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
    return sys.modules[name].main


@pytest.mark.parametrize(("name", "options", "says"), CASES, ids=lambda value: str(value)[:40].replace("\0", "NUL"))
def test_the_error_for_an_invalid_value_is_one_line(name, options, says, tiny, tmp_path, monkeypatch, capsys):
    given = {"--model": tiny, "--limit": "3", "--max-new-tokens": "1", "--out": str(tmp_path / "runs")}
    if name == "reproduce_vtc_cls":
        given["--data"] = "pope"
    if name == "measure_speed":
        del given["--limit"], given["--max-new-tokens"]
    words = [word for option, value in given.items() if option not in options for word in (option, value)]
    monkeypatch.setattr(sys, "argv", [name, *words, *options])
    monkeypatch.chdir(tmp_path)
    (tmp_path / "file").write_text("")
    with pytest.raises(SystemExit) as ended:
        cli.run(main_of(name))
    assert ended.value.code == 2
    captured = capsys.readouterr()
    lines = (captured.err + captured.out).strip().splitlines()
    assert says in " ".join(" ".join(lines).split())
    assert "Traceback" not in captured.err + captured.out
    assert len(lines[-1]) < 1500
    assert not list(tmp_path.rglob("table.csv"))


def test_every_experiment_is_tried():
    scripts = {path.stem for path in (ROOT / "experiments").glob("*.py")}
    assert scripts == {*OWN, "train_reference"}
