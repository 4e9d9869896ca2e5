export function imagePage(page, model) {}
