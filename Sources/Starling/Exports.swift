// Handlers take a `MessageView`, endpoints close with a `CloseCode`: whoever imports this module has their names too.
@_exported public import StarlingCore
