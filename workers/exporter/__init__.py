"""What no single worker knows, as metrics: runs, queues, versions, quotas, approvals. Served by `fleet exporter`."""
