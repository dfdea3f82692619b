// Package zodb holds the words that every other package speaks: object and
// transaction identifiers, the errors of a ZODB storage, and the roles that a
// storage plays for those who serve it. It follows ZODB.interfaces; the names
// are ZODB's own.
package zodb
