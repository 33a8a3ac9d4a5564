"""A Snakemake executor: SLURM, with the jobs of chosen rules in job arrays.

It is snakemake-executor-plugin-slurm but for how arrays are submitted and how a job begins. That plugin's own
arrays (2.8.0) have every task check the output of the array's first job, so that what ends before the first
job fails and loses its files (its issue 447), and they forget jobs that become ready alone (its issue 473).
Here a task is one branch of the batch script and runs what a job of its own would run, an array has only jobs
that ask for the same, and no job waits for others.
"""

from __future__ import annotations

import subprocess
from collections.abc import AsyncIterator, Sequence
from pathlib import Path

from snakemake_executor_plugin_slurm import Executor as SlurmExecutor
from snakemake_executor_plugin_slurm import ExecutorSettings as ExecutorSettings
from snakemake_executor_plugin_slurm import common_settings as common_settings
from snakemake_executor_plugin_slurm.submit_string import get_submit_command
from snakemake_executor_plugin_slurm.utils import set_gres_string
from snakemake_executor_plugin_slurm.validation import validate_or_get_slurm_job_id, validate_slurm_extra
from snakemake_interface_executor_plugins.executors.base import SubmittedJobInfo
from snakemake_interface_executor_plugins.jobs import JobExecutorInterface


def batch_script(commands: Sequence[str]) -> str:
    """The script of an array whose task i runs the i-th command, counted from 0."""
    branches = [f"{task})\n{command}\n;;\n" for task, command in enumerate(commands)]
    return f"#!/bin/sh\ncase $SLURM_ARRAY_TASK_ID in\n{''.join(branches)}esac\n"


class Executor(SlurmExecutor):
    """Submits jobs of the rules in the setting `array_jobs` in arrays, and all others one by one."""

    def run_jobs(self, jobs: list[JobExecutorInterface]) -> None:
        """Submit all jobs; those that may share an array and ask for the same do so."""
        arrays: dict[str, list[JobExecutorInterface]] = {}
        for job in jobs:
            chosen = not job.is_group() and not self.array_jobs.isdisjoint({job.rule.name, "all"})
            arrays.setdefault(self._request(job) if chosen else f"job {job.jobid}", []).append(job)
        for tasks in arrays.values():
            for start in range(0, len(tasks), self.max_array_size):
                chunk = tasks[start : start + self.max_array_size]
                if len(chunk) == 1:
                    self._submit_job(chunk[0])
                else:
                    self._submit_array_jobs(chunk)

    def run_array_jobs(self, jobs: list[JobExecutorInterface]) -> None:
        """Submit jobs that ask for the same as one array."""
        try:
            array = self._submit(jobs)
        # This runs in a thread whose exceptions nobody sees; the scheduler would wait for the jobs for ever.
        except Exception as error:
            reason = getattr(error, "stderr", None) or error
            for job in jobs:
                self._report_job_error_threadsafe(
                    SubmittedJobInfo(job), f"SLURM did not take the array of {len(jobs)} jobs: {reason}"
                )
            return
        self.logger.info(f"{len(jobs)} jobs of {jobs[0].rule.name} are submitted as SLURM array {array}.")
        for task, job in enumerate(jobs):
            log = self._log_folder(job) / f"{array}_{task}.log"
            self._report_job_submission_threadsafe(
                SubmittedJobInfo(job, external_jobid=f"{array}_{task}", aux={"slurm_logfile": log})
            )

    def additional_general_args(self) -> str:
        """No arguments: a job runs its rule. The plugin's would have srun start another Snakemake for that.

        A step of its own is what programs need that SLURM starts several times (MPI); none here does, and a
        start of Snakemake takes longer than many a job.
        """
        return ""

    async def check_active_jobs(self, active_jobs: list[SubmittedJobInfo]) -> AsyncIterator[SubmittedJobInfo]:
        """Yield the jobs that have not ended, and report the others."""
        async for job in super().check_active_jobs(active_jobs):
            yield job
        # A steady rhythm: one `squeue` tells of all jobs, and growing pauses would delay what follows.
        settings = self.workflow.executor_settings
        self.next_seconds_between_status_checks = settings.init_seconds_before_status_checks

    def _submit(self, jobs: Sequence[JobExecutorInterface]) -> str:
        self._log_folder(jobs[0]).mkdir(parents=True, exist_ok=True)
        done = subprocess.run(
            # By standard input: a command line has no room for the commands of many jobs.
            f"{self._request(jobs[0])} --array=0-{len(jobs) - 1} /dev/stdin",
            shell=True,
            input=batch_script([self.format_job_exec(job) for job in jobs]),
            capture_output=True,
            text=True,
            check=True,
        )
        return validate_or_get_slurm_job_id(done.stdout.strip().split(";")[0], done.stdout)

    def _request(self, job: JobExecutorInterface) -> str:
        """The `sbatch` command, without what it is to run."""
        validate_slurm_extra(job)
        parameters = {
            "run_uuid": self.run_uuid,
            "slurm_logfile": self._log_folder(job) / "%A_%a.log",
            "comment_str": f"rule_{job.rule.name}",
            "account": next(self.get_account_arg(job)),
            "partition": self.get_partition_arg(job),
            "workdir": self.workflow.workdir_init,
        }
        settings = self.workflow.executor_settings
        command = get_submit_command(job, parameters, settings=settings, failed_nodes=self._failed_nodes)
        return command + set_gres_string(job)

    def _log_folder(self, job: JobExecutorInterface) -> Path:
        return self.slurm_logdir / f"rule_{job.rule.name}"
