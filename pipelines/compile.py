"""Compile the pipeline to the YAML that Kubeflow takes."""

from __future__ import annotations

import re
import tempfile
from pathlib import Path

from components.step_config import InputError
from components.store import write_atomically
from pipelines.placement import DEFAULT_ENGINE, PROFILES, Engine
from pipelines.run_config import RunConfig
from pipelines.train_and_release import build

_DEFAULT_IN_COMMENT = re.compile(r"^(#    \w+: \w+) \[Default: .*\]$", re.MULTILINE)


def compile_pipeline(config: RunConfig, profile: str, output: Path, engine: Engine = DEFAULT_ENGINE) -> None:
    """Write the intermediate representation; the same input gives the same bytes.

    Raises InputError when `output` is a folder.
    """
    if output.is_dir():
        raise InputError(f"{output} is a folder; name a file to write")
    # kfp takes a second to import, which `slipway validate` should not pay
    from kfp import compiler

    with tempfile.TemporaryDirectory() as folder:
        written = Path(folder, "pipeline.yaml")
        compiler.Compiler().compile(build(PROFILES[profile], config.parameters(), engine), str(written))
        text = written.read_text(encoding="utf-8")
    output.parent.mkdir(parents=True, exist_ok=True)
    # The comment at the top repeats the default values in the order of protobuf's maps, which is another one in
    # each process; the definition below it is sorted and says the same.
    write_atomically(output, _DEFAULT_IN_COMMENT.sub(r"\1", text))
