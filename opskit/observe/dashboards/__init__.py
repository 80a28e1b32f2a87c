"""The dashboards as code, built at development time into `templates/grafana/dashboards`.

    python -m opskit.observe.dashboards [DIRECTORY]

needs grafana-foundation-sdk, which only the tests install; what opskit ships and reads is the
committed JSON. `board` lays panels out and gives every one of them the same looks; each other
module is one dashboard, and nothing but the questions that it asks.
"""
