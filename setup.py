# SPDX-License-Identifier: AGPL-3.0-or-later
"""Builds the package. What is special: the start-up files must lie in the root of site-packages, see `BuildPy`."""

import re
from pathlib import Path

from setuptools import find_packages, setup
from setuptools.command.build_py import build_py

HERE = Path(__file__).parent
VERSION = re.search(r'^__version__ = "(.+)"$', (HERE / "ultralytics_akconv/__init__.py").read_text("utf-8"), re.M)[1]
AUTHOR = "The ultralytics-akconv maintainers"  # as in CITATION.cff

# Read by Python at every start (site module). An error must stay silent there: a broken or half-removed plug-in may not
# write to the stderr of every Python program on the machine.
PTH = (
    'import sys; exec("try:\\n import ultralytics_akconv_startup\\n ultralytics_akconv_startup.install()'
    '\\nexcept Exception:\\n pass")\n'
)
DOCS = ["mkdocs-material>=9.5", "mkdocstrings[python]>=0.26", "nbclient", "nbformat", "ipykernel"]
EVAL = ["faster-coco-eval>=1.6.7", "scipy"]  # the release that the host asks for; intervals of sweeps
# For the tests of the GPU kernels, in its interpreter; where there is a GPU, it comes with torch.
TRITON = 'triton; platform_system == "Linux" and platform_machine == "x86_64"'
ONNX = ["onnx", "onnxslim", "onnxruntime"]
# The light formats. The pin of pnnx is the host's. MNN's converter installs the SDK by itself where it is absent, with
# a protobuf that newer releases of onnx do not load: named here, pip chooses releases that go together.
EXPORT = [*ONNX, "openvino>=2024.0.0", "ncnn", "pnnx==20260526", "MNN>=2.9.6", "aliyun-log-python-sdk"]
START = "ultralytics_akconv_startup:install\n"  # PEP 829, Python 3.15 on: replaces the .pth of the same name


class BuildPy(build_py):
    """Writes `ultralytics_akconv.pth` and `.start` beside the packages, for wheels and editable installs alike.

    `data_files` never reach an editable install; there, the root is where the `install` command would put the library.
    """

    def run(self):
        """Build the modules, then write the two start-up files."""
        super().run()
        root = Path(self.get_finalized_command("install").install_lib if self.editable_mode else self.build_lib)
        root.mkdir(parents=True, exist_ok=True)
        (root / "ultralytics_akconv.pth").write_text(PTH, "utf-8")
        (root / "ultralytics_akconv.start").write_text(START, "utf-8")


setup(
    name="ultralytics-akconv",
    version=VERSION,
    description="AKConv (LDConv) in Ultralytics YOLO: any number of sampling points, by the ordinary yolo command",
    long_description=(HERE / "README.md").read_text("utf-8"),
    long_description_content_type="text/markdown",
    author=AUTHOR,
    license="AGPL-3.0-or-later",
    project_urls={"Paper": "https://arxiv.org/abs/2311.11587", "Ultralytics": "https://docs.ultralytics.com"},
    python_requires=">=3.9",
    install_requires=[
        "ultralytics>=8.3.9",
        "torch>=2.1",
        "torchvision>=0.16",  # of torch 2.1
        "einops",
        "filelock",
        # What follows comes with Ultralytics, by these names and from these releases on.
        "matplotlib>=3.3.0",
        "numpy>=1.23.0",
        "opencv-python>=4.6.0",
        "pillow>=7.1.2",
        "psutil",
        "pyyaml>=5.3.1",
    ],
    extras_require={
        "dev": [
            "pytest",
            "pytest-cov",
            "hypothesis",
            "pytest-xdist",
            "ruff",
            "cloudpickle",
            TRITON,
            *EVAL,
            *ONNX,
            *DOCS,
        ],
        "browser": ["playwright"],  # which drives the system's Chromium
        "eval": EVAL,
        "export": EXPORT,
        "ray": ["ray>=2.0"],
        "docs": DOCS,
        "matrix": ["pandas", "py-cpuinfo", "scipy", "seaborn", "tqdm"],  # what older releases of the host import
    },
    packages=[*find_packages(include=["ultralytics_akconv*"]), "ultralytics_akconv.cfg"],
    package_dir={"ultralytics_akconv": "ultralytics_akconv", "ultralytics_akconv.cfg": "cfg"},
    package_data={"ultralytics_akconv": ["py.typed"], "ultralytics_akconv.cfg": ["**/*"]},
    py_modules=["ultralytics_akconv_startup"],
    entry_points={"console_scripts": ["akconv=ultralytics_akconv_startup:main"]},
    cmdclass={"build_py": BuildPy},
    classifiers=[
        "Development Status :: 4 - Beta",
        "Intended Audience :: Developers",
        "Intended Audience :: Science/Research",
        "Operating System :: MacOS",
        "Operating System :: Microsoft :: Windows",
        "Operating System :: POSIX :: Linux",
        "Programming Language :: Python :: 3",
        *(f"Programming Language :: Python :: 3.{minor}" for minor in range(9, 14)),
        "Topic :: Scientific/Engineering :: Artificial Intelligence",
        "Topic :: Scientific/Engineering :: Image Recognition",
        "Typing :: Typed",
    ],
)
