"""What the SQLite index says to its file, where it is longer than a line."""

from __future__ import annotations

from typing import Final

DROP_LINKS: Final = (
    """
    DELETE FROM links WHERE (digest, repository, origin, kind) IN (
        SELECT digest, repository, origin, kind FROM links INDEXED BY links_by_age
        WHERE stored = 0 ORDER BY affirmed LIMIT ?
    )
    """,
    """
    DELETE FROM links WHERE (digest, repository, origin, kind) IN (
        SELECT digest, repository, origin, kind FROM links ORDER BY affirmed LIMIT ?
    )
    """,
)
DROP_TAGS: Final = (
    """
    DELETE FROM tags WHERE (origin, repository, name, accept) IN (
        SELECT origin, repository, name, accept FROM tags INDEXED BY tags_by_age ORDER BY seen LIMIT ?
    )
    """,
)

PURGE_LINKS: Final = """
    DELETE FROM links WHERE (digest, repository, origin, kind) IN (
        SELECT digest, repository, origin, kind FROM links INDEXED BY links_by_age
        WHERE stored = 0 AND affirmed < ? ORDER BY affirmed, digest, repository, origin, kind LIMIT ?
    )
"""
PURGE_TAGS: Final = """
    DELETE FROM tags WHERE (origin, repository, name, accept) IN (
        SELECT origin, repository, name, accept FROM tags INDEXED BY tags_by_age
        WHERE seen < ? ORDER BY seen, origin, repository, name, accept LIMIT ?
    )
"""
# Both walk a primary key: a blob's own links, and the tags of one repository.
REPOSITORIES: Final = "SELECT DISTINCT origin, repository FROM links WHERE digest = ? LIMIT ?"
TAGS: Final = """
    SELECT DISTINCT name FROM tags WHERE origin = ? AND repository = ? AND digest = ? LIMIT ?
"""
AFFIRM_AGAIN: Final = """
    UPDATE links SET affirmed = ?5, media_type = coalesce(?6, media_type)
    WHERE digest = ?1 AND repository = ?2 AND origin = ?3 AND kind = ?4
"""
AFFIRM: Final = """
    INSERT INTO links VALUES (?1, ?2, ?3, ?4, ?5, ?6, EXISTS (SELECT 1 FROM blobs WHERE digest = ?1))
"""
DROP_ROWS_OF_TAG: Final = """
    DELETE FROM tags WHERE (origin, repository, name) = (?1, ?2, ?3) AND accept NOT IN (
        SELECT accept FROM tags WHERE (origin, repository, name) = (?1, ?2, ?3) ORDER BY seen DESC LIMIT ?4
    )
"""
