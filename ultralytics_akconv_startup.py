# SPDX-License-Identifier: AGPL-3.0-or-later
"""Puts AKConv into Ultralytics the moment a program imports it: called at interpreter start, standard library only.

`ultralytics_akconv.pth` (and `.start`, Python 3.15 on) in site-packages call `install()`. It adds one finder to
`sys.meta_path`, which lets the host's own loader execute `ultralytics.nn.tasks` and then registers the plug-in there.
Nothing else is imported before that. A top-level module of its own, because a module inside the package would import
the package, and so torch, at every interpreter start.
"""

import os
import sys

TASKS = "ultralytics.nn.tasks"
DATA = "ultralytics.data.utils"
EXPORTER = "ultralytics.engine.exporter"
CALLBACKS = "ultralytics.utils.callbacks"


def later_name(name):
    """Return the name of a layer or block after the operator's later name: C2f_AKConv -> C2f_LDConv."""
    return name.replace("AKConv", "LDConv")


# The names a YAML row may use; kept here for the message when the plug-in itself cannot be imported.
_AKCONVS = (
    "AKConv",
    "C2_AKConv",
    "C2f_AKConv",
    "C2fAttn_AKConv",
    "C3_AKConv",
    "C3k2_AKConv",
    "A2C2f_AKConv",
    "Bottleneck_AKConv",
    "BottleneckCSP_AKConv",
    "RepNCSPELAN4_AKConv",
    "ELAN1_AKConv",
)
YAML_NAMES = (*_AKCONVS, *" ".join(_AKCONVS).replace("AKConv", "LDConv").split())  # no call of ours at every start


def enabled():
    """Return whether the environment leaves the plug-in on; `ULTRALYTICS_AKCONV=0` switches it off."""
    return os.environ.get("ULTRALYTICS_AKCONV", "1").strip().lower() not in {"0", "false", "off", "no"}


class _Loader:
    """Executes a host module with the host's own loader, then registers the plug-in."""

    def __init__(self, loader):
        self.loader = loader

    def create_module(self, spec):
        """Create the module as its own loader would."""
        return self.loader.create_module(spec)

    def __getattr__(self, name):
        """Hand on what else a loader can do (`get_source`, `get_code`, ...) to whoever only looks the module up."""
        return getattr(self.loader, name)

    def exec_module(self, module):
        """Execute the module under its own loader, so that `inspect` finds its source, then register."""
        module.__spec__.loader = module.__loader__ = self.loader
        self.loader.exec_module(module)
        _executed(module)


class _Finder:
    """Finds the host modules the plug-in patches; it stays in `sys.meta_path` and passes everything else on."""

    def find_spec(self, name, path=None, target=None):
        """Return the host's own spec with our loader around its loader, None for every other module."""
        if name not in (TASKS, DATA, EXPORTER, CALLBACKS):
            return None
        for finder in sys.meta_path:
            find_spec = getattr(finder, "find_spec", None)  # Python's own search skips finders without one, too
            spec = None if finder is self or find_spec is None else find_spec(name, path, target)
            if spec is not None:
                if spec.loader is not None:
                    spec.loader = _Loader(spec.loader)
                return spec
        return None


def install():
    """Add the finder, once; called at interpreter start. Does nothing where the plug-in is switched off."""
    ours = (__name__, _Finder.__name__)  # by its name: the class is another once this module was loaded anew
    if enabled() and ours not in [(type(finder).__module__, type(finder).__name__) for finder in sys.meta_path]:
        sys.meta_path.insert(0, _Finder())


def main():
    """Run the command `akconv`, from here: a package that cannot be imported is one line and no traceback."""
    try:
        from ultralytics_akconv.cli import main
    except Exception as error:  # no host or one that is too old, a library of another build, a half-removed package
        print(f"akconv: {type(error).__name__}: {error}", file=sys.stderr)
        if sys.argv[1:2] == ["check"]:
            _tell_versions()
        return 1
    return main()


def _tell_versions():
    """Print what `akconv check` can tell without the package: what is installed where, by its metadata."""
    from importlib import metadata

    print(f"Python {sys.version.split()[0]}, {sys.platform}")
    for name in ("ultralytics-akconv", "ultralytics", "torch", "torchvision", "triton"):
        try:
            print(f"{name} {metadata.version(name)}")
        except metadata.PackageNotFoundError:
            print(f"{name} is not installed")


def _executed(module):
    """Register the plug-in after a host module was executed, or leave a host that says why AKConv is missing."""
    if _state["unregistered"] or (module.__name__ != TASKS and not hasattr(sys.modules.get(TASKS), "AKConv")):
        return  # somebody has unregistered us; or ultralytics.nn.tasks is still to be executed, and comes by here then
    try:
        from ultralytics_akconv import register

        register()
    except Exception as error:  # whatever it is, a program that does not use AKConv must go on unharmed
        if module.__name__ == TASKS and _under_way():
            _wait_at_use(module)
        elif module.__name__ == TASKS:
            _explain(module, error)


def _under_way():
    """Return whether the package is being imported, by this thread or by one that waits for this one.

    A package that holds nothing, of which an uninstallation left the folder, has no `register` either and never will.
    """
    package = sys.modules.get("ultralytics_akconv")
    importing = getattr(getattr(package, "__spec__", None), "_initializing", False)  # as the import system itself asks
    return importing and not hasattr(package, "register")


# (owner, name, the host's function, the function in its place) while the first use has to wait for the registration.
_waiting = []
_state = {"unregistered": False}


def _wait_at_use(tasks):
    """Have the first use of the host wait for the import that is under way, which registers at its end."""
    callbacks = sys.modules.get(CALLBACKS)  # every model asks it first of all; the package begins by importing it
    for owner, name in ((callbacks, "get_default_callbacks"), (tasks, "check_yaml"), (tasks, "parse_model")):
        host = getattr(owner, name, None)
        if host is not None and not any(host is call for *_, call in _waiting):
            call = _waits(tasks, owner, name, host)
            _waiting.append((owner, name, host, call))
            setattr(owner, name, call)


def _waits(tasks, owner, name, host):
    """Return a function in the place of a host's, which waits for the registration and goes on with what it put there.

    Inside that import itself it is the host's.
    """

    def call(*args, **kwargs):
        if any(call is waiting for *_, waiting in _waiting):
            try:
                from ultralytics_akconv import register  # waits for another thread that imports it

                register()
            except Exception as error:  # as in `_executed`
                if not _under_way():
                    settle()
                    _explain(tasks, error)
            if getattr(owner, name) is not call:
                return getattr(owner, name)(*args, **kwargs)
        return host(*args, **kwargs)

    call.__wrapped__ = host
    return call


def awaited(function):
    """Return the host's function for one that waits in its place, and every other as it is."""
    return next((host for _, _, host, call in _waiting if call is function), function)


def settle(registered=True):
    """Put back what still waits, once the plug-in is registered; what is unregistered by a program stays so."""
    _state["unregistered"] = not registered
    while _waiting:
        owner, name, host, call = _waiting.pop()
        if getattr(owner, name) is call:
            setattr(owner, name, host)


def _explain(tasks, error):
    """Make every use of AKConv in this host raise a RuntimeError that names the reason."""
    reason = f"ultralytics-akconv is installed but could not be loaded: {type(error).__name__}: {error}"

    def unavailable(*args, **kwargs):
        raise RuntimeError(reason) from error

    for name in YAML_NAMES:
        setattr(tasks, name, unavailable)
    host_check_yaml = getattr(tasks, "check_yaml", None)
    if host_check_yaml is None:
        return  # not the host we know: its layers say what is wrong, its look-up of files stays its own

    def check_yaml(file, *args, **kwargs):
        name = os.path.basename(str(file)).lower()
        if ("akconv" in name or "ldconv" in name) and not os.path.exists(file):
            unavailable()
        return host_check_yaml(file, *args, **kwargs)

    tasks.check_yaml = check_yaml
