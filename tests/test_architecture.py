# SPDX-License-Identifier: AGPL-3.0-or-later
"""The house rules that can be read off the files: who imports whom, sizes, versions, public names."""

import ast
import pydoc
import re
import sys

import pytest
from conftest import ROOT

import ultralytics_akconv

PACKAGE = ROOT / "ultralytics_akconv"
SOURCES = sorted(PACKAGE.rglob("*.py"))
SCRIPTS = sorted((ROOT / "scripts").rglob("*.py"))
TESTS = sorted((ROOT / "tests").rglob("*.py"))


def room(file):
    """The room a file belongs to: its module, or the folder that a room has outgrown itself into."""
    return file.relative_to(PACKAGE).parts[0].removesuffix(".py")


ROOMS = sorted({room(file) for file in SOURCES})
# What each room may import of ours: all rooms, one way. Where two need the same, it stands in a room below both.
MAY_IMPORT = {
    "shapes": set(),
    "configs": set(),
    "files": set(),
    "markdown": set(),
    "host": set(),
    "functional": {"shapes"},
    "blocks": set(),
    "modules": {"blocks", "functional", "shapes"},
    "forks": {"blocks", "conversion", "host", "markdown", "modules", "shapes"},
    "grafting": {"configs", "files", "modules"},
    "opening": set(),
    "layers": {"modules"},
    "conversion": {"files", "functional", "grafting", "host", "layers", "markdown", "modules", "opening"},
    "paddle": set(),
    "movable": set(),
    "exports": {"functional", "modules", "movable", "paddle"},
    "datasets": set(),
    "info": {"host", "layers", "modules", "opening", "ultralytics_akconv_startup"},
    "benchmark": {"files", "functional", "host", "info", "layers", "markdown", "modules", "opening", "shapes"},
    "evaluation": {"conversion", "datasets", "markdown", "opening"},
    "ablation": {"conversion", "evaluation", "functional", "host", "layers", "modules"},
    "plots": {"ablation", "evaluation", "functional", "host", "layers", "modules", "opening", "shapes"},
    "callbacks": {"files", "functional", "host", "layers", "modules", "plots"},
    "sweep": {"benchmark", "evaluation", "files", "grafting", "layers", "markdown", "opening"},
    "demo": {"files", "layers", "plots"},
    "plugin": {"callbacks", "configs", "conversion", "exports", "grafting", "modules", "ultralytics_akconv_startup"},
    "checks": {"benchmark", "functional"},
    "gpu": {"benchmark", "configs", "conversion", "evaluation", "functional", "modules", "shapes", "sweep"},
    "cli": {
        "ablation",
        "benchmark",
        "checks",
        "conversion",
        "datasets",
        "evaluation",
        "files",
        "functional",
        "grafting",
        "info",
        "opening",
        "plots",
        "shapes",
        "sweep",
    },
    "__init__": {
        "host",
        "forks",
        "functional",
        "grafting",
        "modules",
        "plugin",
        "shapes",
        "conversion",
        "ultralytics_akconv_startup",
    },
}
PUBLIC = {
    "BLOCKS", "SHAPES", "AKConv", "LDConv", "__version__", "akconv2d", "from_fork", "from_published", "graft",
    "register", "resample", "sampling_points", "sampling_positions", "transfer", "unregister", "write_checkpoint",
}  # fmt: skip


def imports(file):
    """Return the full names of all that a file imports, wherever in it."""
    names = set()
    for node in ast.walk(ast.parse(file.read_text("utf-8"))):
        if isinstance(node, ast.Import):
            names.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{file}:{node.lineno} imports relatively"
            names.add(node.module)
            if node.module == "ultralytics_akconv":  # from ultralytics_akconv import configs
                names.update(f"{node.module}.{alias.name}" for alias in node.names)
    return names


def rooms_imported(file):
    ours = {name.split(".")[1] for name in imports(file) if name.startswith("ultralytics_akconv.")}
    start_up = {name for name in imports(file) if name == "ultralytics_akconv_startup"}
    return ((ours & set(ROOMS)) | start_up) - {room(file)}


@pytest.mark.parametrize("name", ROOMS)
def test_imports_run_one_way(name):
    files = [file for file in SOURCES if room(file) == name]
    used = set().union(*(rooms_imported(file) for file in files))
    assert used <= MAY_IMPORT[name]


def test_the_manual_has_every_room():
    table = (ROOT / "docs/contributing.md").read_text("utf-8")
    assert not [name for name in ROOMS if name != "__init__" and f"`{name}`" not in table]


def test_one_thing_has_one_word():
    """Further words for a plain model, a path and the plain formula, which the manual's list of words does not have."""
    for file in [*SOURCES, *SCRIPTS]:
        assert not re.search(r"\b(twin|formulation|plain expression)s?\b", file.read_text("utf-8"), re.I), file


def test_no_room_is_reached_from_itself():
    def below(name, seen=()):
        assert name not in seen, f"{' imports '.join([*seen, name])}"
        for lower in MAY_IMPORT.get(name, ()):
            below(lower, (*seen, name))

    for name in MAY_IMPORT:
        below(name)


def test_nothing_imports_the_command_the_scripts_or_the_tests():
    for file in SOURCES:
        names = imports(file) - ({"ultralytics_akconv.cli"} if room(file) == "cli" else set())
        assert not [n for n in names if n.split(".")[0] in {"scripts", "tests", "conftest", "reference"}], file
        assert "ultralytics_akconv.cli" not in names, file


def test_the_command_and_the_scripts_know_no_private_names():
    for file in [*SCRIPTS, *(file for file in SOURCES if room(file) == "cli")]:
        for node in ast.walk(ast.parse(file.read_text("utf-8"))):
            if isinstance(node, ast.ImportFrom) and node.module.startswith("ultralytics_akconv"):
                assert not [a.name for a in node.names if a.name.startswith("_") and a.name != "__version__"], file


def test_shapes_and_the_operator_know_torch_alone_and_the_start_up_nothing():
    allowed = {
        "shapes": {"torch"},
        "functional": {"torch", "triton"},
        "configs": set(),
        "host": {"ultralytics"},
    }
    foreign = {"ultralytics", "torch", "torchvision", "numpy", "einops", "triton", "yaml", "cv2", "PIL", "matplotlib"}
    for file in SOURCES:
        if room(file) in allowed:
            assert {name.split(".")[0] for name in imports(file)} & foreign <= allowed[room(file)], file
    start_up = ROOT / "ultralytics_akconv_startup.py"
    ours = {"ultralytics_akconv", "ultralytics_akconv.register", "ultralytics_akconv.cli"}
    assert imports(start_up) <= {"os", "sys", "importlib", *ours}
    top = [
        node for node in ast.parse(start_up.read_text("utf-8")).body if isinstance(node, (ast.Import, ast.ImportFrom))
    ]
    assert {alias.name for node in top for alias in node.names} == {"os", "sys"}


def test_triton_which_may_be_absent_is_imported_by_the_programs_alone_and_they_when_one_is_launched():
    for file in SOURCES:
        if file.name != "programs.py":
            top = ast.Module([node for node in ast.parse(file.read_text("utf-8")).body if not defines(node)], [])
            names = {alias for node in ast.walk(top) for alias in imported(node)}
            assert not {name for name in names if "triton" in name or name.endswith("programs")}, file


def defines(node):
    return isinstance(node, (ast.FunctionDef, ast.ClassDef))


def imported(node):
    """Return the full names that one statement imports."""
    if isinstance(node, ast.ImportFrom):
        return {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
    return {alias.name for alias in node.names} if isinstance(node, ast.Import) else set()


def test_users_read_of_ultralytics_and_not_of_the_host():
    """In messages and help, and in docstrings that the manual's page of the API renders."""
    for file in SOURCES:
        tree = ast.parse(file.read_text("utf-8"))
        bodies = [node.body[0] for node in ast.walk(tree) if (defines(node) or node is tree) and node.body]
        docstrings = {id(first.value) for first in bodies if isinstance(first, ast.Expr)}
        for node in ast.walk(tree):
            if isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in docstrings:
                assert not re.search(r"\b([Tt]he|[Tt]his|an?) host\b", node.value), f"{file}:{node.lineno}"
    for name in re.findall(r"^::: ultralytics_akconv\.(\S+)", (ROOT / "docs/api.md").read_text("utf-8"), re.M):
        rendered = pydoc.locate(f"ultralytics_akconv.{name}")
        public = [member for key, member in vars(rendered).items() if not key.startswith("_") and callable(member)]
        for text in filter(None, [rendered.__doc__, *(member.__doc__ for member in public)]):
            assert not re.search(r"\bhosts?\b", text), f"{name}: {text}"


def test_the_oracle_knows_nothing_of_ours():
    assert imports(ROOT / "tests/reference.py") <= {"math", "torch"}


def test_no_file_outgrows_300_lines():
    long = {str(f.relative_to(ROOT)): len(f.read_text("utf-8").splitlines()) for f in [*SOURCES, *SCRIPTS, *TESTS]}
    assert {name: lines for name, lines in long.items() if lines > 300} == {}


def test_every_module_and_public_function_has_a_docstring():
    for file in [*SOURCES, *SCRIPTS]:
        tree = ast.parse(file.read_text("utf-8"))
        assert ast.get_docstring(tree), file
        assert "SPDX-License-Identifier: AGPL-3.0-or-later" in file.read_text("utf-8").splitlines()[0], file


def test_no_error_is_swallowed_and_no_argument_asserted():
    for file in [*SOURCES, *SCRIPTS, ROOT / "ultralytics_akconv_startup.py"]:
        for node in ast.walk(ast.parse(file.read_text("utf-8"))):
            assert not isinstance(node, ast.Assert), f"{file}:{node.lineno}"
            if isinstance(node, ast.ExceptHandler):
                assert node.type is not None, f"{file}:{node.lineno} catches everything"
                own = ast.unparse(node.type).startswith("_")  # a file's own signal, not an error of somebody else
                silent = all(isinstance(part, ast.Pass) for part in node.body)
                assert own or not silent, f"{file}:{node.lineno} passes over an error"


def test_nothing_evaluates_text_or_unpickles_without_need():
    for file in [*SOURCES, *SCRIPTS, ROOT / "ultralytics_akconv_startup.py"]:
        for node in ast.walk(ast.parse(file.read_text("utf-8"))):
            if isinstance(node, ast.Call):
                name = ast.unparse(node.func)
                assert name not in {"eval", "exec", "yaml.load", "yaml.unsafe_load", "pickle.load", "os.system"}, file


def test_the_public_names_are_there():
    assert set(ultralytics_akconv.__all__) == PUBLIC  # removing one breaks a user's program, a new one is to be kept
    for name in ultralytics_akconv.__all__:
        assert getattr(ultralytics_akconv, name) is not None


def test_no_public_name_hides_a_module():
    """`import ultralytics_akconv.x as m` must give the module x, not a function that bears its name."""
    names = {name.stem if name.suffix else name.name for name in PACKAGE.iterdir()}
    assert not names & set(ultralytics_akconv.__all__)


def test_every_version_is_the_one_of_the_package():
    version = ultralytics_akconv.__version__
    assert re.fullmatch(r"\d+\.\d+\.\d+", version)
    assert re.search(r'__version__ = "(.+)"', (PACKAGE / "__init__.py").read_text("utf-8"))[1] == version
    assert "version=VERSION" in (ROOT / "setup.py").read_text("utf-8")
    for name, pattern in {"CITATION.cff": r"^version: \"?([\d.]+)", "CHANGELOG.md": r"^## \[?(\d[\d.]+)"}.items():
        file = ROOT / name
        if file.exists():
            assert re.search(pattern, file.read_text("utf-8"), re.M)[1] == version


# Import -> the distribution it is in, where the names differ.
DISTRIBUTIONS = {"PIL": "pillow", "cv2": "opencv-python", "faster_coco_eval": "faster-coco-eval", "yaml": "pyyaml"}
OF_TORCH = {"triton"}  # where there is a GPU; imported when a kernel is launched
OF_THE_HOST = {"x2paddle"}  # which installs it by itself, when it exports to Paddle


@pytest.mark.skipif(sys.version_info < (3, 10), reason="Python does not tell its own modules before 3.10")
def test_everything_that_is_imported_is_declared():
    ours = {"ultralytics_akconv", "ultralytics_akconv_startup", "__future__", *sys.stdlib_module_names}
    setup = (ROOT / "setup.py").read_text("utf-8")
    declared = set(re.findall(r"""["']([\w-]+)(?:[>=]=[\w.]+)?(?:;.*)?["']""", setup))
    for file in SOURCES:
        used = {name.split(".")[0] for name in imports(file)} - ours - OF_THE_HOST - OF_TORCH
        missing = {name for name in used if DISTRIBUTIONS.get(name, name) not in declared}
        assert not missing, f"{file} imports {missing}, which setup.py does not declare"


def test_the_author_is_the_one_to_be_cited():
    author = re.search(r'AUTHOR = "(.+)"', (ROOT / "setup.py").read_text("utf-8"))[1]
    assert f"- name: {author}\n" in (ROOT / "CITATION.cff").read_text("utf-8")


def test_the_minimum_host_is_one_number():
    from ultralytics_akconv.host import MINIMUM

    assert f'"ultralytics>={".".join(map(str, MINIMUM))}"' in (ROOT / "setup.py").read_text("utf-8")


def test_the_distribution_is_named_like_the_import():
    """The host pip-installs the missing module of a checkpoint by its import name."""
    name = re.search(r'name="(.+?)"', (ROOT / "setup.py").read_text("utf-8"))[1]
    assert name.replace("-", "_") == ultralytics_akconv.__name__
