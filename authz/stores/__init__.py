"""What outlives a call: the policies on disk, the audit trail. Imports `core`, nothing above."""
