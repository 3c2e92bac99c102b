"""Providers over real HTTP and SMTP, with their own quotas and a ledger: what a load test can trust to count.

Written from the providers' documentation alone; shares no code with the rooms it judges.
"""
