"""Files: JSON, atomic writes, hashes, room on a disk, and the names of what lies in a folder."""
