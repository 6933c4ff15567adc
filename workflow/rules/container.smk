# The container in which jobs run with --sdm apptainer: made from gvbsm.def beside it.
# Snakemake takes no path with a blank, not even unused.
IMAGE = str(PROJECT / "workflow" / "envs" / "gvbsm.sif")
IMAGE = os.path.relpath(IMAGE) if " " in IMAGE else IMAGE

if " " not in IMAGE:

    container: IMAGE

elif any(method.name == "APPTAINER" for method in workflow.deployment_settings.deployment_method):
    sys.stderr.write(f"gvbsm: {IMAGE}: expected a path without blanks for --sdm apptainer, got one; move the clone\n")
    raise SystemExit(1)
