"""What this room tells the rooms above it, which it does not know."""

from django.dispatch import Signal

# Sent after the rollups of an organization have grown and are committed.
# Arguments: organization_id (int), first_hour and last_hour (aware datetimes, both included).
usage_added = Signal()
