"""What manifests/upstream.yaml says: the parts that a cluster is made of, their versions, and how each is seen there.

`make platform` (manifests/installer) applies them, `slipway doctor --cluster` (cluster_doctor.py) looks for them.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal, get_args

import yaml
from pydantic import BaseModel, ConfigDict, Field, StringConstraints, ValidationError, model_validator

from components.step_config import InputError

FILE = Path(__file__).resolve().parents[1] / "manifests/upstream.yaml"

Environment = Literal["test-cluster", "ephemeral", "dev", "prod"]
ENVIRONMENTS: tuple[Environment, ...] = get_args(Environment)
ON_GKE: tuple[Environment, ...] = ENVIRONMENTS[1:]

Name = Annotated[str, StringConstraints(pattern=r"^[a-z]([a-z0-9-]*[a-z0-9])?$")]
Commit = Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{40}$")]
Sha256 = Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{64}$")]
Variable = Annotated[str, StringConstraints(pattern=r"^PLATFORM_[A-Z_]+$")]


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Source(_Strict):
    """Files of somebody else, at one state: a commit of a repository, or an archive of known content."""

    repository: str = ""
    """Address of a Git repository."""

    ref: str = ""
    """The tag that the commit was found under."""

    commit: Commit | None = None
    """What is fetched: Git itself checks that the files are those of the commit."""

    folders: tuple[str, ...] = ()
    """What is taken of the repository; paths still begin at its root."""

    module: str = ""
    """The same files as a Go module, version `ref`: where a Go module proxy is reached and the repository is not."""

    archive: str = ""
    """Address of a .tgz, instead of a repository."""

    sha256: Sha256 | None = None
    """Of the archive."""

    @model_validator(mode="after")
    def _is_one_of_two(self) -> Source:
        repository, archive = bool(self.repository), bool(self.archive)
        if repository == archive:
            raise ValueError("give `repository` or `archive`")
        if repository and not (self.ref and self.folders and self.commit):
            raise ValueError("give `ref`, its `commit` (a tag may move) and the `folders` that are used")
        if archive and (self.ref or self.folders or self.commit or self.module):
            raise ValueError("`ref`, `commit`, `folders` and `module` belong to a repository")
        if archive and self.sha256 is None:
            raise ValueError("give the sha256 of the archive")
        return self

    @property
    def key(self) -> str:
        """What the content is named by."""
        return self.commit or self.sha256 or ""


class Chart(_Strict):
    """A Helm chart, rendered here and applied like everything else; nothing of Helm is kept in the cluster."""

    source: Name
    path: str
    """Of the chart in its source."""

    values: str = ""
    """A file of manifests/upstream/; "" is the chart's own values."""

    skip_crds: bool = False


class Setting(_Strict):
    """A value in a ConfigMap without which the part does other than we need."""

    config_map: Name
    key: str
    """Its data key, whose value is JSON."""

    field: str
    value: str


class Thing(_Strict):
    """An object of ours that others name."""

    version: str
    """As in apiVersion."""

    plural: str
    name: str
    namespace: str = ""
    why: str
    condition: str = ""
    """A type in its status.conditions that must be True."""

    google: bool = False
    """On Google Cloud it names the Google account that it acts as."""

    environments: tuple[Environment, ...] = ENVIRONMENTS


class Shows(_Strict):
    """What stands in a cluster that has the part."""

    crds: tuple[str, ...] = ()
    """As PLURAL.GROUP/VERSION; the version must be served."""

    deployments: tuple[Name, ...] = ()
    """In the part's namespace, all replicas available; an image of the first one has the part's version as its tag."""

    webhooks: tuple[str, ...] = ()
    """Names of ValidatingWebhookConfigurations that know whom to trust."""

    api_services: tuple[str, ...] = ()
    settings: tuple[Setting, ...] = ()
    objects: tuple[Thing, ...] = ()


class Part(_Strict):
    """One step of the installation."""

    name: Name
    why: str
    version: str
    """Of the program; "" where it is no program."""

    namespace: Name | None = None
    """Made for the part, with `pod_security`."""

    pod_security: Literal["restricted", "baseline", "privileged"] = "restricted"
    chart: Chart | None = None
    kustomization: dict[Environment, str] = {}
    """Environment -> a folder below manifests/."""

    sources: tuple[Name, ...] = ()
    """What the kustomization finds below `sources/`."""

    kinds: tuple[str, ...] = ()
    """Only objects of these kinds; () is all."""

    left_out: tuple[str, ...] = ()
    """No objects of these kinds."""

    environments: tuple[Environment, ...] = ON_GKE
    needs: tuple[Variable, ...] = ()
    """What the platform file must say."""

    needs_there: dict[Environment, tuple[Variable, ...]] = {}
    """And what it must say in some environments."""

    by: str = ""
    """Who brings it where it is not applied from here, and how."""

    wait_seconds: int = Field(300, ge=30, le=3600)
    shows: Shows = Shows()

    @model_validator(mode="after")
    def _comes_from_somewhere(self) -> Part:
        if sum(map(bool, (self.chart, self.kustomization, self.by))) != 1:
            raise ValueError("give one of `chart`, `kustomization`, `by`")
        if self.kustomization and set(self.kustomization) != set(self.environments) - {"test-cluster"}:
            raise ValueError("`kustomization` must name a folder for each of `environments` on GKE")
        if self.sources and not self.kustomization:
            raise ValueError("`sources` belongs to a kustomization; a chart names its own")
        if self.shows.deployments and not self.namespace:
            raise ValueError("`deployments` needs the namespace they are in")
        return self

    def source_names(self) -> tuple[str, ...]:
        return (self.chart.source,) if self.chart else self.sources


class Platform(_Strict):
    """The whole file."""

    kubernetes: str
    """For charts that ask."""

    sources: dict[Name, Source]
    parts: tuple[Part, ...]

    @model_validator(mode="after")
    def _fits_together(self) -> Platform:
        names = [part.name for part in self.parts]
        twice = sorted({name for name in names if names.count(name) > 1})
        if twice:
            raise ValueError(f"parts with the same name: {', '.join(twice)}")
        used = {source for part in self.parts for source in part.source_names()}
        if used != set(self.sources):
            raise ValueError(f"sources that nobody uses or gives: {', '.join(sorted(used ^ set(self.sources)))}")
        return self

    def of(self, environment: Environment) -> list[Part]:
        """The parts that an environment has, in order."""
        return [part for part in self.parts if environment in part.environments]


def read(file: Path = FILE) -> Platform:
    """Raises InputError when it is not there or not right."""
    try:
        return Platform.model_validate(yaml.safe_load(file.read_text(encoding="utf-8")))
    except OSError as error:
        raise InputError(f"{file} cannot be read ({error.strerror}); run this in a checkout of Slipway") from error
    except ValidationError as error:
        lines = [f"{'.'.join(map(str, one['loc']))}: {one['msg']}" for one in error.errors()]
        raise InputError(f"{file}:\n" + "\n".join(lines)) from error
