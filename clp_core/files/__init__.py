"""Files: JSON, writes that never leave a half, hashes, disk room, and the names of what lies in a folder."""
