"""Tools for those who work on minisheep; none of them is in the wheel."""
