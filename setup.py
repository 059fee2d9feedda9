"""Packaging of the lab's worker, the site's Django app and the demonstration.

REQUIREMENTS is a literal on purpose: `launcher.py` reads it without running this file and installs
from it with the exact versions of `constraints.txt`.
"""

import re
from pathlib import Path

from setuptools import find_packages, setup

HERE = Path(__file__).parent

# "" is the base: what the worker needs on a lab PC. The ranges say what is known to work; the pins
# of a set-up are in constraints.txt.
REQUIREMENTS = {
    "": [
        "click>=8.1",
        "highdicom>=0.28,<0.29",
        "monai>=1.6,<1.7",
        "nibabel>=5.3",
        "numpy>=2.0",
        "pillow>=11",
        "prometheus-client>=0.21",
        "psutil>=6",
        "pydicom>=3.0.1,<4",
        "pyjpegls>=1.5",
        "pylibjpeg>=2.1",
        "pylibjpeg-libjpeg>=2.3",
        "pylibjpeg-openjpeg>=2.4",
        "pylibjpeg-rle>=2.1",
        "python-json-logger>=3",
        "pytorch-ignite>=0.5.2",
        "pyyaml>=6.0.2",
        "requests>=2.32",
        "rich>=13.9",
        "safetensors>=0.5",
        "scikit-image>=0.25",
        "scipy>=1.14",
        "simpleitk>=2.4",
        "tenacity>=9",
        "torch>=2.6,<2.14",
    ],
    # The base is the worker; the name lets a lab PC's set-up say what it installs.
    "worker": [],
    "site": [
        "dicomweb-client>=0.60",
        "dj-database-url>=3",
        "django>=5.2,<5.3",
        "django-ninja>=1.4",
        "highdicom>=0.28,<0.29",
        "nibabel>=5.3",
        "numpy>=2.0",
        "pillow>=11",
        "prometheus-client>=0.21",
        "psycopg[binary,pool]>=3.2",
        "pydicom>=3.0.1,<4",
        "pylibjpeg>=2.1",
        "pylibjpeg-libjpeg>=2.3",
        "pylibjpeg-openjpeg>=2.4",
        "pylibjpeg-rle>=2.1",
        "python-json-logger>=3",
        "uvicorn>=0.34",
        "whitenoise>=6.9",
    ],
    # Artifacts and images in object storage, for a site of several machines.
    "s3": ["django-storages[s3]>=1.14"],
    # What the queue is compared with, and the simulation that plans how many workers are needed.
    "bench": [
        "django-tasks-db>=0.13",
        "django-tasks>=0.12",
        "procrastinate>=3.10",
        "simpy>=4.1",
    ],
    "test": [
        "axe-playwright-python>=0.1.8",
        "dcmqi>=1.5",
        "django-storages[s3]>=1.14",
        "django-tasks-db>=0.13",
        "django-tasks>=0.12",
        "flask>=3",
        "flask-cors>=6",
        "gunicorn>=23",
        "hypothesis>=6.130",
        "httpx>=0.28",
        "jsonschema>=4.23",
        "moto[s3]>=5.1",
        "procrastinate>=3.10",
        "pytest>=8.3",
        "pytest-asyncio>=1.0",
        "pytest-django>=4.11",
        "pytest-playwright>=0.7",
        "pytest-timeout>=2.4",
        "pytest-xdist>=3.8",
        "schemathesis>=4",
        "simpy>=4.1",
    ],
    "dev": [
        "django-stubs>=5.2",
        "mypy>=1.15",
        "ruff>=0.11",
        "types-psutil",
        "types-pyyaml",
        "types-requests",
    ],
}

PACKAGES = ["worker", "django_queue_app", "reference_site", "demo"]


def _version() -> str:
    text = (HERE / "worker" / "__init__.py").read_text(encoding="utf-8")
    found = re.search(r'^__version__ = "([^"]+)"', text, flags=re.MULTILINE)
    if found is None:
        raise RuntimeError("worker/__init__.py does not name its __version__")
    return found.group(1)


def _readme() -> str:
    path = HERE / "README.md"
    return path.read_text(encoding="utf-8") if path.exists() else ""


setup(
    name="mri-segmentation-queue",
    version=_version(),
    description="Segment MRI series with MONAI on a lab's GPU, through a queue in the cloud",
    long_description=_readme(),
    long_description_content_type="text/markdown",
    license="Apache-2.0",
    license_files=["LICENSE"],
    python_requires=">=3.11",
    packages=find_packages(include=[*PACKAGES, *(f"{name}.*" for name in PACKAGES)]),
    package_data={
        "": ["py.typed"],
        "django_queue_app": [
            "templates/**/*",
            "static/**/*",
            "locale/**/*",
        ],
        "worker": ["locale/**/*"],
    },
    install_requires=REQUIREMENTS[""],
    extras_require={name: wanted for name, wanted in REQUIREMENTS.items() if name},
    entry_points={"console_scripts": ["mri-worker = worker.cli:main"]},
)
