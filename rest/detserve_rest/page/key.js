// The API key: kept in this tab alone, shown to this server alone.

const NAME = "detserve-key";

export const key = () => sessionStorage.getItem(NAME);
export const keepKey = (value) => sessionStorage.setItem(NAME, value);
export const forgetKey = () => sessionStorage.removeItem(NAME);

/** Headers that show the key, or none. */
export const authorization = () => (key() ? { Authorization: `Bearer ${key()}` } : {});
