"""`xconv bench`: which way is fastest for my sizes, by how much, and how far from the limit?

cases → arrays → peers, timed in turn → records (JSON lines) → Markdown, plots, one HTML page.
Every peer runs in its best settings and layout; its answer is compared with the reference
beside its time; a refusal is a result with its reason.
"""
