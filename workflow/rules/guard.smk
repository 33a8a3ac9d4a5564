# Refuses any rule that does work without saying which code does it: the re-runs could not be trusted.

for item in workflow.rules:
    if not item.norun and (item.script is None or "code" not in item.params.keys()):
        raise WorkflowError(f"rule {item.name} must run a script and have a param `code` (see common.smk)")
