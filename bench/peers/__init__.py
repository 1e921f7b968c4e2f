"""One adapter per queue that is measured. Each runs in that queue's own environment: nothing of queue_trio is there."""
