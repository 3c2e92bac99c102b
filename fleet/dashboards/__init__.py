"""Dashboards as code: what an operator asks, as panels over the metrics of `fleet.contracts.metrics`.

`model` says what a dashboard is made of, `queries` writes PromQL, a module each holds a dashboard and `catalog` all of
them. `grafana` makes them Grafana's; `render` draws them from Prometheus's answers.
"""
