# What the workflows share. The variables of X.smk are those of X.yaml beside it; --config name=value
# and --configfile win.
import os
from pathlib import Path

from snakemake.common.configfile import load_configfile

VARIABLES = str(Path(workflow.main_snakefile).with_suffix(".yaml"))
UNKNOWN = config.keys() - load_configfile(VARIABLES).keys()
if UNKNOWN:
    raise WorkflowError(f"{', '.join(sorted(UNKNOWN))}: no such variable in {VARIABLES}")


configfile: VARIABLES


PROPERTIES = Path(os.path.relpath(workflow.basedir)).parent
SAVED = config["checkpoint_dir"]


def data(name, suffix):
    """A file of a data set."""
    return f"{config['data_path']}/{name}/{name}.{suffix}"
