"""What can change an answer changes the identity of a value, and nothing else does."""

import importlib
import shutil
import sys
import threading
from collections import OrderedDict
from dataclasses import dataclass, field
from decimal import Decimal
from enum import Enum
from fractions import Fraction
from functools import cached_property, partial
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import foveate
from foveate.compressors import Identity, Pipeline, VisionCompressor
from foveate.core.contracts import Scorer
from foveate.evaluation import EvalConfig
from foveate.evaluation.config import run_id
from foveate.evaluation.identity import UnidentifiedValue, identity_of
from foveate.evaluation.source import tree_hash
from foveate.methods import fastv, vtc_cls
from tests.tiers import parametrize

PLUGIN = '''
"""A scorer."""
import torch
from foveate.core.contracts import Scorer
{imports}

SCALE = {scale}

class Probe(Scorer):
    """A plain class: {doc}"""

    def __init__(self, power=1.0, weights=None):
        self.power, self.weights = power, weights

    def score(self, trace):
        {comment}
        return {formula}
'''
USUAL = {"imports": "", "scale": "2.0", "doc": "no dataclass.", "comment": "pass", "formula": "trace * SCALE"}


@pytest.fixture
def written(tmp_path):
    """Writes a module of one's own, with others beside it, and imports it afresh."""
    folders = []

    def write(folder="here", name="own_probe", beside=None, **changes):
        place = tmp_path / folder
        place.mkdir(parents=True, exist_ok=True)
        (place / f"{name}.py").write_text(PLUGIN.format(**USUAL | changes))
        for file, text in (beside or {}).items():
            (place / file).parent.mkdir(parents=True, exist_ok=True)
            (place / file).write_text(text)
        for known in [m for m in sys.modules if m.partition(".")[0] in (name, "own_helper", "own_pack")]:
            del sys.modules[known]
        for earlier in folders:
            sys.path.remove(earlier)
        folders[:] = [str(place)]
        sys.path.insert(0, str(place))
        importlib.invalidate_caches()
        shutil.rmtree(place / "__pycache__", ignore_errors=True)  # of a file written within the same second
        return importlib.import_module(name)

    yield write
    for folder in folders:
        sys.path.remove(folder)
    for known in [m for m in sys.modules if m.partition(".")[0] in ("own_probe", "own_helper", "own_pack")]:
        del sys.modules[known]


def named(compressor):
    return run_id(EvalConfig(compressor).identity("weights", "questions"))


def probe(module, *args):
    return named(VisionCompressor(module.Probe(*args), 16))


# values


@dataclass(frozen=True)
class Learned(Scorer):
    weights: object
    bias: object = field(default=0.0, compare=False)

    def score(self, trace):
        return trace


class Colour(Enum):
    RED = 1
    GREEN = 2


def scalars():
    return st.one_of(
        st.none(), st.booleans(), st.integers(-3, 3), st.floats(allow_nan=False, width=32), st.text(max_size=3)
    )


def arrays():
    small = st.lists(st.integers(-2, 2), max_size=4)
    kinds = st.sampled_from(["tensor", "array", "half", "column"])
    return st.tuples(st.just("array"), kinds, small)


def recipes():
    """Descriptions of values, which are values that Python compares by itself."""
    return st.recursive(
        st.one_of(
            st.tuples(st.just("plain"), scalars()), arrays(), st.tuples(st.just("enum"), st.sampled_from(Colour))
        ),
        lambda inner: st.one_of(
            st.tuples(st.just("tuple"), st.lists(inner, max_size=3)),
            st.tuples(st.just("list"), st.lists(inner, max_size=3)),
            st.tuples(
                st.just("dict"), st.lists(st.tuples(st.text(max_size=2), inner), max_size=3, unique_by=lambda p: p[0])
            ),
            st.tuples(st.just("field"), inner, inner),
            st.tuples(st.just("closure"), inner),
            st.tuples(st.just("default"), inner),
            st.tuples(st.just("partial"), inner),
        ),
        max_leaves=6,
    )


def built(recipe):
    """The value of a description, of new objects each time."""
    kind, *rest = recipe
    match kind:
        case "plain" | "enum":
            return rest[0]
        case "array":
            form, content = rest
            match form:
                case "tensor":
                    return torch.tensor(content, dtype=torch.float32)
                case "half":
                    return torch.tensor(content, dtype=torch.float16)
                case "column":
                    return torch.tensor(content, dtype=torch.float32)[:, None]
            return np.array(content, dtype=np.float32)
        case "tuple":
            return tuple(built(inner) for inner in rest[0])
        case "list":
            return [built(inner) for inner in rest[0]]
        case "dict":
            return {key: built(inner) for key, inner in rest[0]}
        case "field":
            return Learned(built(rest[0]), built(rest[1]))
        case "closure":
            held = built(rest[0])
            return lambda x: (x, held)
        case "default":
            held = built(rest[0])

            def function(x, other=held):
                return x, other

            return function
    return partial(round, ndigits=built(rest[0]))


def spelled(recipe):
    """A description as text, in which 1, 1.0 and True differ, as do 0.0 and -0.0."""
    if isinstance(recipe, tuple | list):
        return f"{type(recipe).__name__}({', '.join(map(spelled, recipe))})"
    return f"{type(recipe).__name__} {recipe!r}"


@parametrize("examples", [50, 200])
def test_two_values_share_an_identity_if_and_only_if_they_are_built_alike(examples):
    @settings(deadline=None, derandomize=True, max_examples=examples)
    @given(recipes(), recipes())
    def hold(one, other):
        assert identity_of(built(one)) == identity_of(built(one))
        assert (identity_of(built(one)) == identity_of(built(other))) == (spelled(one) == spelled(other))

    hold()


@pytest.mark.guards("identity: tensors count by their repr")
def test_probes_with_opposite_or_long_weights_are_told_apart():
    weights = torch.linspace(-1, 2, 5000)
    probes = [
        Learned(w) for w in (weights, -weights, weights.flip(0), weights + 1e-6, weights.double(), weights[:, None])
    ]
    names = [named(VisionCompressor(each, 16)) for each in probes]
    assert len(set(names)) == len(names)
    assert named(VisionCompressor(Learned(weights.clone()), 16)) == names[0]
    assert named(VisionCompressor(Learned(weights[::2][:2]), 16)) == named(
        VisionCompressor(Learned(weights[[0, 2]]), 16)
    )


def test_what_is_left_out_of_a_comparison_counts_as_well():
    assert Learned(1.0, bias=1.0) == Learned(1.0, bias=2.0)
    assert identity_of(Learned(1.0, bias=1.0)) != identity_of(Learned(1.0, bias=2.0))


@pytest.mark.parametrize(
    ("one", "same"),
    [
        (16, np.int64(16)),
        (0.5, np.float64(0.5)),
        (torch.ones(3), torch.nn.Parameter(torch.ones(3)).data),
        (torch.ones(4)[::2], torch.ones(2)),
        (np.ones((2, 2)), np.asfortranarray(np.ones((2, 2)))),
        ({1, 2, 3}, {3, 2, 1}),
        (Decimal("1.50"), Decimal("1.50")),
        (Fraction(1, 2), Fraction(2, 4)),
        (OrderedDict(a=1), OrderedDict(a=1)),
        (Path("a") / "b", Path("a/b")),
    ],
    ids=range(10),
)
def test_equal_values_written_otherwise_are_the_same(one, same):
    assert identity_of(one) == identity_of(same)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (1, 1.0),  # one patch, all patches
        (1, True),
        ((1, 2), (12,)),
        (("a", "b"), ("ab",)),
        (np.ma.masked_array([1, 2], [0, 1]), np.ma.masked_array([1, 2], [1, 0])),
        (OrderedDict(a=1, b=2), OrderedDict(b=2, a=1)),
        (torch.zeros(0, 3), torch.zeros(3, 0)),
        (torch.tensor([1j]), torch.tensor([1j]).conj()),
        (min, max),
        (int | None, str | None),
        (list[int], list[str]),
        ({"a": 1}.get, {"a": 2}.get),
        (Learned(1).score, Learned(2).score),
        (torch.relu, torch.tanh),
        (torch.nn.Linear, torch.nn.Conv1d),
        (Colour.RED, Colour.GREEN),
        (torch.nn.Dropout(0.1), torch.nn.Dropout(0.2)),
    ],
    ids=range(17),
)
def test_values_that_look_alike_are_told_apart(one, other):
    assert identity_of(one) != identity_of(other)


def test_modules_of_torch_count_by_their_weights():
    torch.manual_seed(0)
    layer, other = torch.nn.Linear(3, 3), torch.nn.Linear(3, 3)
    before = identity_of(layer)
    assert identity_of(other) != before
    other.load_state_dict(layer.state_dict())
    assert identity_of(other) == before


def test_two_lambdas_of_one_line_are_told_apart():
    one, other, same = (lambda x: x + 1), (lambda x: x - 1), (lambda x: x + 1)
    assert identity_of(one) != identity_of(other)
    assert identity_of(one) == identity_of(same)


def test_a_value_that_holds_itself_has_an_identity():
    ring: list = [1]
    ring.append(ring)
    other: list = [2]
    other.append(other)
    assert identity_of(ring) != identity_of(other)


@pytest.mark.parametrize(
    ("value", "kind"),
    [
        (threading.Lock(), "_thread.lock"),
        ((i for i in range(3)), "generator"),
        (sys.__stdout__, "TextIOWrapper"),
        (torch.zeros(2, device="meta"), "Tensor"),
        (torch.zeros(2).to_sparse(), "Tensor"),
    ],
    ids=["lock", "generator", "file", "meta", "sparse"],
)
def test_what_cannot_be_told_apart_is_refused_by_name(value, kind):
    with pytest.raises(UnidentifiedValue, match=rf"compressor\.scorer\.weights\['w'\] is a .*{kind}.*__getstate__"):
        EvalConfig(VisionCompressor(Learned({"w": value}), 16)).identity("weights", "questions")


# classes and modules of one's own


@pytest.mark.guards("identity: the code of a plain class does not count")
def test_the_formula_of_a_plain_class_counts(written):
    assert probe(written()) != probe(written(formula="-trace * SCALE"))


def test_the_state_of_a_plain_class_counts(written):
    module = written()
    assert probe(module) == probe(module) == probe(module, 1.0)
    assert probe(module) != probe(module, 2.0)
    assert probe(module, 1.0, torch.ones(2000)) != probe(module, 1.0, -torch.ones(2000))


@pytest.mark.guards("identity: docstrings count")
@pytest.mark.parametrize(
    "change",
    [
        {"doc": "another docstring."},
        {"comment": "# a comment\n        pass"},
        {"scale": "(2.0)"},
        {"folder": "elsewhere/deep"},
        {"imports": '"a text that stands alone"\n\n'},
    ],
    ids=str,
)
def test_comments_docstrings_layout_and_place_of_ones_own_code_do_not_count(written, change):
    before = probe(written())
    assert probe(written(**change)) == before


@pytest.mark.parametrize(
    "change", [{"scale": "3.0"}, {"formula": "trace"}, {"imports": "def helper(): pass"}, {"comment": "1 / 1"}], ids=str
)
def test_everything_else_of_ones_own_module_counts(written, change):
    before = probe(written())
    assert probe(written(**change)) != before


@pytest.mark.guards("identity: the code of a helper beside a plain class does not count")
@pytest.mark.parametrize(
    ("line", "file"),
    [
        ("import own_helper", "own_helper.py"),
        ("from own_helper import factor", "own_helper.py"),
        ("from own_pack.sub import factor", "own_pack/sub.py"),
        ("from own_pack import sub", "own_pack/sub.py"),
        ("from own_pack.sub import factor", "own_pack/__init__.py"),
        ("from own_pack.first import factor", "own_pack/sub.py"),  # by a relative import of first
        ("def late():\n    import own_helper", "own_helper.py"),
    ],
)
def test_modules_that_ones_own_module_imports_count(written, line, file):
    others = {
        "own_pack/__init__.py": "",
        "own_pack/first.py": "from .sub import factor",
        "own_pack/sub.py": "factor = 2",
    }
    others["own_helper.py"] = "factor = 2"

    def changed(text):
        return probe(written(imports=line, beside=others | {file: text}))

    assert changed("factor = 1") == changed("# said anew\nfactor = 1") != changed("factor = -1")


def test_modules_beside_that_are_not_imported_do_not_count(written):
    assert probe(written(beside={"own_helper.py": "x = 1"})) == probe(written(beside={"own_helper.py": "x = 2"}))


def test_a_class_attribute_that_is_set_at_run_time_counts(written):
    module = written()
    before = probe(module)
    module.Probe.gain = 3.0
    tripled = probe(module)
    module.Probe.gain = 4.0
    assert len({before, tripled, probe(module)}) == 3


def test_a_method_that_is_replaced_at_run_time_counts(written):
    module = written()
    before = probe(module)
    module.Probe.score = lambda self, trace: -trace
    assert probe(module) != before


def test_a_file_that_is_edited_while_its_old_code_runs_is_neither_the_old_nor_the_new_code(written):
    module = written()
    old, path = probe(module), Path(module.__file__)
    path.write_text(PLUGIN.format(**USUAL | {"formula": "-trace * SCALE"}))
    running = probe(module)
    assert len({old, running, probe(written(formula="-trace * SCALE"))}) == 3


def test_what_a_class_remembers_does_not_count():
    class Remembering(Scorer):
        def __init__(self, weights):
            self.weights = weights

        @cached_property
        def total(self):
            return self.weights.sum()

        def score(self, trace):
            return trace

    one = Remembering(torch.ones(3))
    before = identity_of(one)
    assert one.total == 3
    assert identity_of(one) == before


def test_a_class_says_itself_what_its_state_is():
    class Guarded(Scorer):
        def __init__(self, power):
            self.power, self.lock = power, threading.Lock()

        def __getstate__(self):
            return {"power": self.power}

        def score(self, trace):
            return trace

    assert identity_of(Guarded(1)) == identity_of(Guarded(1)) != identity_of(Guarded(2))


def notebook(cells):
    """Runs cells in a main module without a file, as a notebook does, and returns it."""
    module = ModuleType("own_notebook")
    sys.modules["own_notebook"] = module
    for cell in cells:
        exec(compile(cell, "<cell>", "exec"), module.__dict__)
    return module


CELL = """
from foveate.core.contracts import Scorer
class Probe(Scorer):
    "{doc}"
    def score(self, trace):
        return helper(trace) * {factor} * scale
"""


@pytest.mark.parametrize(
    ("changes", "same"),
    [
        ({}, True),
        ({"doc": "other"}, True),
        ({"unused": "other = 5"}, True),
        ({"factor": "3"}, False),
        ({"scale": "scale = 9.0"}, False),
        ({"helper": "def helper(x): return -x"}, False),
        ({"helper": "def helper(x):\n    'said'\n    return x"}, True),
    ],
    ids=str,
)
def test_a_class_of_a_notebook_counts_with_the_globals_that_it_reads(monkeypatch, changes, same):
    monkeypatch.delitem(sys.modules, "own_notebook", raising=False)

    def name(doc="a scorer", factor="2", scale="scale = 2.0", helper="def helper(x): return x", unused=""):
        return probe(notebook([scale, helper, CELL.format(doc=doc, factor=factor), unused]))

    assert (name() == name(**changes)) is same
    sys.modules.pop("own_notebook")


def test_an_installed_plug_in_counts_by_its_code_and_other_packages_by_their_version(written, monkeypatch):
    installed = {"folder": "site-packages", "imports": "import numpy, own_helper"}
    before = probe(written(**installed, beside={"own_helper.py": "x = 1"}))
    assert probe(written(**installed, beside={"own_helper.py": "x = 2"})) == before  # another installed package
    assert probe(written(**installed, beside={"own_helper.py": "x = 1"}, formula="-trace")) != before
    from foveate.evaluation import source

    monkeypatch.setattr(source, "version", lambda name: "99")
    assert probe(written(**installed, beside={"own_helper.py": "x = 1"})) != before


# this package


@pytest.mark.parametrize("file", ["evaluation/module.py", "scorers/cls_ensemble.py", "models/runtime/pruning.py"])
def test_comments_and_docstrings_of_this_package_do_not_count_and_its_code_does(file):
    text = (Path(foveate.__file__).parent / file).read_text()
    before = tree_hash(text.encode())
    assert tree_hash(("# a comment\n" + text.replace('"""', '"""Said anew. ', 1) + "\n\n# end\n").encode()) == before
    assert tree_hash((text + "\nX = 1\n").encode()) != before
    assert tree_hash(text.replace("return", "pass; return", 1).encode()) != before


def test_compressors_of_this_package_are_told_apart_by_their_values():
    names = [vtc_cls(16, 1), vtc_cls(17, 1), vtc_cls(16, 2), fastv(16, 2), fastv(16, 3), Identity()]
    names += [Pipeline((vtc_cls(36, 1), fastv(9, 2))), Pipeline((vtc_cls(36, 1), fastv(10, 2)))]
    assert len({named(one) for one in names}) == len(names)
