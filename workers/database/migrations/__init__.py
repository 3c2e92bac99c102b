"""Migrations, one file each. A revision that was released is never edited."""
