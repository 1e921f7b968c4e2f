"""The rows and panels of the dashboard, as data: what an operator looks at, from the whole to the parts."""

from __future__ import annotations

from typing import Final

from deploy.grafana.panels import (
    OWN_QUEUE,
    QUEUE,
    WIDTH,
    WORKER,
    Panel,
    Query,
    Row,
    jobs,
    quantile,
    quantiles,
    queue_rate,
    rate,
    stat,
)

NO_YES: Final = (("no", "red"), ("yes", "green"))

OVERVIEW: Final = Row(
    "Overview",
    (
        stat(
            "Workers ready",
            f"sum(queue_trio_ready{{{WORKER}}})",
            "Workers whose /readyz says 200.",
            red_below=1,
        ),
        stat(
            "Redis",
            f"min(queue_trio_redis_up{{{WORKER}}})",
            "Whether Redis answers every worker.",
            red_below=1,
            words=NO_YES,
        ),
        stat("Jobs ready", jobs("ready"), "Jobs that wait for a worker, over the chosen queues."),
        stat("Jobs running", f"sum(queue_trio_jobs_in_flight{{{WORKER}}})", "Handlers that run now."),
        stat(
            "Oldest ready",
            f"max(queue_trio_queue_oldest_ready_age_seconds{{{QUEUE}}})",
            "How long the job that has waited longest has been ready.",
            unit="s",
        ),
        stat("Dead letters", jobs("dead"), "Jobs that wait for a person to decide.", red_from=1),
        Panel(
            "Throughput",
            (
                Query(queue_rate("queue_enqueued_total", ""), "enqueued"),
                Query(queue_rate("queue_completed_total", ""), "completed"),
                Query(queue_rate("queue_cancelled_total", ""), "cancelled"),
            ),
            "Jobs a second, over the chosen queues, whoever enqueued and ran them.",
            unit="ops",
        ),
        Panel(
            "Failures",
            (
                Query(
                    f"sum(rate(queue_trio_jobs_retried_total{{{WORKER}}}[$__rate_interval]))",
                    "to be tried again",
                ),
                Query(
                    f"sum(rate(queue_trio_jobs_dead_lettered_total{{{WORKER}}}[$__rate_interval]))", "dead"
                ),
            ),
            "Attempts a second that failed, by what became of the job.",
            unit="ops",
        ),
        Panel(
            "Ready by priority",
            (Query(jobs("ready", "priority"), "{{priority}}"),),
            "Jobs that wait for a worker.",
            stacked=True,
        ),
        Panel(
            "Oldest ready job",
            (
                Query(
                    f"max by (queue, priority) (queue_trio_queue_oldest_ready_age_seconds{{{QUEUE}}})",
                    "{{queue}} {{priority}}",
                ),
            ),
            "How long the job that goes next has been ready. No line while Redis does not answer.",
            unit="s",
        ),
        Panel(
            "Jobs by queue",
            tuple(Query(jobs(it, "queue"), f"{{{{queue}}}} {it}") for it in ("ready", "scheduled", "leased")),
            "Ready jobs wait for a worker, scheduled ones for their time, leased ones are being run.",
        ),
        Panel(
            "Workers registered",
            (
                Query(f"max by (queue) (queue_trio_queue_workers{{{QUEUE}}})", "{{queue}}"),
                Query(f"max by (queue) (queue_trio_queue_paused{{{QUEUE}}})", "{{queue}} paused"),
            ),
            "Workers that Redis knows for each queue, scraped or not, and whether the queue is paused.",
        ),
    ),
)

JOBS: Final = Row(
    "Jobs",
    (
        Panel(
            "Completed by task",
            (Query(rate("jobs_completed_total", WORKER, "task"), "{{task}}"),),
            "Jobs a second.",
            unit="ops",
        ),
        Panel(
            "Failed by task",
            (Query(rate("jobs_failed_total", WORKER, "task"), "{{task}}"),),
            "Attempts a second, whether the job is tried again or not.",
            unit="ops",
        ),
        Panel(
            "Retried by task",
            (Query(rate("jobs_retried_total", WORKER, "task"), "{{task}}"),),
            "Failed attempts a second whose job is tried again.",
            unit="ops",
        ),
        Panel("Run time", quantiles("job_run_seconds"), "How long handlers run, over all tasks.", unit="s"),
        Panel(
            "Run time by task, p95",
            (Query(quantile(0.95, "job_run_seconds", "task"), "{{task}}"),),
            "One handler in twenty runs longer.",
            unit="s",
        ),
        Panel(
            "Run time by task, mean",
            (
                Query(
                    f"{rate('job_run_seconds_sum', WORKER, 'task')} / {rate('job_run_seconds_count', WORKER, 'task')}",
                    "{{task}}",
                ),
            ),
            "Exact, where quantiles are only as fine as their buckets.",
            unit="s",
        ),
        Panel(
            "Wait time",
            quantiles("job_wait_seconds"),
            "From enqueueing, or the end of a job's delay, to the start of its first attempt.",
            unit="s",
        ),
        Panel(
            "Wait time by task, p95",
            (Query(quantile(0.95, "job_wait_seconds", "task"), "{{task}}"),),
            "One job in twenty waits longer.",
            unit="s",
        ),
        Panel(
            "Given back",
            (
                Query(rate("jobs_released_total", OWN_QUEUE, "queue"), "{{queue}} unfinished"),
                Query(rate("jobs_unknown_task_total", OWN_QUEUE, "queue"), "{{queue}} of an unknown task"),
            ),
            "Jobs a second that went back to their queue; it costs them no retry.",
            unit="ops",
        ),
    ),
)

LEASES: Final = Row(
    "Leases and Redis",
    (
        Panel(
            "Leases lost",
            (
                Query(rate("jobs_reclaimed_total", OWN_QUEUE, "queue"), "{{queue}} taken back"),
                Query(rate("jobs_stale_total", OWN_QUEUE, "queue"), "{{queue}} outcome refused"),
                Query(
                    f"sum(rate(queue_trio_jobs_lease_lost_total{{{WORKER}}}[$__rate_interval]))",
                    "handlers cancelled",
                ),
            ),
            "Each is a job that runs twice. Zero, unless a worker was lost or frozen.",
            unit="ops",
        ),
        Panel(
            "Breaker",
            (
                Query(
                    f'max by (instance) (queue_trio_breaker_state{{{WORKER}, state="open"}})'
                    f' + max by (instance) (queue_trio_breaker_state{{{WORKER}, state!="closed"}})',
                    "{{instance}}",
                ),
            ),
            "While it is open, calls to Redis are refused at once; half open, a few try.",
            kind="state-timeline",
            words=(("closed", "green"), ("half open", "yellow"), ("open", "red")),
        ),
        Panel(
            "Redis answers",
            (Query(f"min by (instance) (queue_trio_redis_up{{{WORKER}}})", "{{instance}}"),),
            "Whether Redis answered this worker just now.",
            kind="state-timeline",
            words=NO_YES,
        ),
        Panel(
            "Errors of calls to Redis",
            (Query(rate("redis_errors_total", WORKER, "kind"), "{{kind}}"),),
            "Failed calls a second, by kind.",
            unit="ops",
        ),
        Panel(
            "Reconnects",
            (Query(rate("redis_reconnects_total", WORKER, "instance"), "{{instance}}"),),
            "Connections a second, the first ones left out.",
            unit="ops",
        ),
        Panel(
            "Outcomes that wait",
            (Query(f"sum by (instance) (queue_trio_outcomes_waiting{{{WORKER}}})", "{{instance}}"),),
            "Finished jobs whose outcome Redis does not have yet. It grows during an outage.",
        ),
        Panel(
            "Age of the lengths",
            (Query(f"min by (queue) (queue_trio_queue_lengths_age_seconds{{{QUEUE}}})", "{{queue}}"),),
            "Since the newest reading of the queues' lengths.",
            unit="s",
        ),
        Panel(
            "Lengths withheld",
            (Query(f"min by (queue) (queue_trio_queue_lengths_stale{{{QUEUE}}})", "{{queue}}"),),
            "Whether no worker has a reading that is young enough to show.",
            kind="state-timeline",
            words=(("no", "green"), ("yes", "red")),
        ),
    ),
)

WORKERS: Final = Row(
    "Workers",
    (
        Panel(
            "Slots taken",
            (
                Query(f"sum by (instance) (queue_trio_jobs_in_flight{{{WORKER}}})", "{{instance}} running"),
                Query(f"sum by (instance) (queue_trio_jobs_held{{{WORKER}}})", "{{instance}} leases held"),
                Query(f"sum by (instance) (queue_trio_capacity_jobs{{{WORKER}}})", "{{instance}} capacity"),
            ),
            "Handlers that run, leases held (outcomes that wait included), and how many may run at once.",
        ),
        Panel(
            "Share of slots taken",
            (
                Query(
                    f"sum(queue_trio_jobs_in_flight{{{WORKER}}}) / sum(queue_trio_capacity_jobs{{{WORKER}}})",
                    "all workers",
                ),
            ),
            "Near 100 % for long, with jobs ready: more workers would help.",
            unit="percentunit",
        ),
        Panel(
            "Ready",
            (Query(f"max by (instance) (queue_trio_ready{{{WORKER}}})", "{{instance}}"),),
            "Whether /readyz says 200.",
            kind="state-timeline",
            words=NO_YES,
        ),
        Panel(
            "Claimed",
            (Query(rate("jobs_claimed_total", OWN_QUEUE, "instance"), "{{instance}}"),),
            "Jobs a second.",
            unit="ops",
        ),
        Panel(
            "Event loop lag",
            (Query(f"max by (instance) (queue_trio_loop_lag_seconds{{{WORKER}}})", "{{instance}}"),),
            "The longest the event loop was late, of the last half minute.",
            unit="s",
        ),
        Panel(
            "Stalls and abandoned threads",
            (
                Query(rate("loop_stalls_total", WORKER, "instance"), "{{instance}} stalls"),
                Query(rate("threads_abandoned_total", WORKER, "task"), "{{task}} thread past its timeout"),
            ),
            "Handlers that blocked the event loop, and threads that did not end in time.",
            unit="ops",
        ),
        Panel(
            "Processor",
            (Query(rate("process_cpu_seconds_total", WORKER, "instance"), "{{instance}}"),),
            "Cores used by the worker's own process.",
        ),
        Panel(
            "Memory",
            (
                Query(
                    f"max by (instance) (queue_trio_process_resident_memory_bytes{{{WORKER}}})",
                    "{{instance}}",
                ),
            ),
            "Resident memory of the worker's own process.",
            unit="bytes",
        ),
        Panel(
            "Time since start",
            (
                Query(
                    f"time() - max by (instance) (queue_trio_worker_start_time_seconds{{{WORKER}}})",
                    "{{instance}}",
                ),
            ),
            "A saw-tooth is a worker that keeps starting anew.",
            unit="s",
        ),
        Panel(
            "Versions",
            (Query(f"count by (app, version, python, trio) (queue_trio_build_info{{{WORKER}}})"),),
            "Workers of each version.",
            kind="table",
            width=WIDTH,
            height=5,
        ),
    ),
)

DEAD: Final = Row(
    "Dead letters",
    (
        Panel(
            "Dead letters by queue",
            (Query(jobs("dead", "queue"), "{{queue}}"),),
            "Jobs that wait for a person to decide.",
        ),
        Panel(
            "Died, by task",
            (Query(rate("jobs_dead_lettered_total", WORKER, "task"), "{{task}}"),),
            "Jobs a second whose retries were used up, or that must not be tried again.",
            unit="ops",
        ),
        Panel(
            "Poison and purges",
            (
                Query(rate("jobs_poisoned_total", OWN_QUEUE, "queue"), "{{queue}} poison"),
                Query(queue_rate("queue_purged_total"), "{{queue}} purged"),
            ),
            "Jobs a second that kept killing their workers, and dead letters that were thrown away.",
            unit="ops",
        ),
    ),
)

LIMITS: Final = Row(
    "Limits and tracing",
    (
        Panel(
            "Waits for a permit",
            (Query(rate("rate_limit_waits_total", WORKER, "limit"), "{{limit}}"),),
            "Jobs and callers a second that had to wait for a rate limit.",
            unit="ops",
        ),
        Panel(
            "Time spent waiting",
            (Query(rate("rate_limit_wait_seconds_total", WORKER, "limit"), "{{limit}}"),),
            "Seconds a second: as many jobs wait for the limit at once.",
        ),
        Panel(
            "Spans dropped",
            (Query(rate("trace_spans_dropped_total", WORKER, "instance"), "{{instance}}"),),
            "Trace spans a second that the collector did not take in time. No job is affected.",
            unit="ops",
        ),
    ),
)

ROWS: Final = (OVERVIEW, JOBS, LEASES, WORKERS, DEAD, LIMITS)
