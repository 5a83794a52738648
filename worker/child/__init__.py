"""The process that trains, warm from job to job. Only what is in here, and `worker.diagnosis`, imports torch."""
