//go:build tools

// Litestream is built as it is, from its own main package: named here so that go.mod pins it.
package tools

import _ "github.com/benbjohnson/litestream/cmd/litestream"
